// The pool with real Python processes: its handlers are written into a folder by each test.
#include "worker/handler_pool.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/unique_fd.h"

namespace bloomery {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::ElementsAre;
using testing::Ge;
using testing::HasSubstr;
using testing::Le;
using testing::StartsWith;

// Far above what a loaded machine needs to start a process.
constexpr std::chrono::seconds kPatience{30};

bool InPath(const std::string& program) {
  std::istringstream folders(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (::access((folder + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

class HandlerPoolTest : public testing::Test {
 protected:
  struct Heard {
    int status = 0;
    bool streamed = false;
    std::string text;
    std::vector<std::string> pieces;
    std::string failed;  // "kind: why"
    bool by_handler = false;
    bool ended = false;
  };

  void SetUp() override {
    if (!InPath("python3")) GTEST_SKIP() << "there is no python3";
    std::string path = (std::filesystem::temp_directory_path() / "handler_pool_test_XXXXXX").string();
    folder_ = ::mkdtemp(path.data());
    options_.launch.directory = folder_;
    options_.launch.python_path = std::filesystem::path(BLOOMERY_SOURCE_DIR) / "python";
    options_.launch.name = "m";
    options_.launch.variables = {{"PYTHONDONTWRITEBYTECODE", "1"}, {"FOLDER", folder_.string()}};
    options_.first_backoff = milliseconds(10);
  }
  ~HandlerPoolTest() override {
    pool_.reset();
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }

  void Start(const std::string& body) {
    std::ofstream(folder_ / "model.py") << "import os, time\nfrom djl_python import Input, Output\n" << body;
    pool_.emplace(io_, options_);
    pool_->Start();
  }
  // `body` is that of the handler, where `text` is the request's.
  void StartHandler(const std::string& body) {
    std::string indented;
    std::istringstream lines(body);
    for (std::string line; std::getline(lines, line);) indented += "    " + line + "\n";
    Start("def handle(inputs):\n    if inputs.is_empty(): return None\n    text = inputs.get_as_string()\n" +
          indented);
    RunUntil([&] { return pool_->state() == HandlerPool::State::kReady; });
  }

  template <typename Condition>
  void RunUntil(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      io_.restart();
      io_.run_one_for(milliseconds(10));
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "waited for too long";
    }
  }

  std::uint64_t Submit(const std::string& text) {
    HandlerRequest request;
    request.properties = {{"Content-Type", "text/plain"}};
    request.content = {{"", text}};
    const std::uint64_t id = pool_->Submit(std::move(request), [this, text](HandlerEvent event) {
      Heard& heard = heard_[text];
      EXPECT_FALSE(heard.ended) << text;
      if (const auto* head = std::get_if<HandlerHead>(&event)) {
        heard.status = head->status;
        heard.streamed = head->streamed;
      } else if (auto* data = std::get_if<HandlerData>(&event)) {
        heard.text += data->bytes;
        heard.pieces.push_back(data->bytes);
      } else if (const auto* failed = std::get_if<HandlerFailed>(&event)) {
        heard.failed = failed->error.ToString();
        heard.by_handler = failed->by_handler;
        heard.ended = true;
      } else {
        heard.failed = std::get<HandlerDone>(event).error;
        heard.ended = true;
      }
    });
    return id;
  }
  const Heard& Ask(const std::string& text) {
    heard_.erase(text);
    Submit(text);
    Finish({text});
    return heard_[text];
  }
  void Finish(const std::vector<std::string>& texts) {
    RunUntil([&] {
      return std::all_of(texts.begin(), texts.end(), [&](const auto& text) { return heard_[text].ended; });
    });
  }
  std::string FileText(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(folder_ / name).rdbuf();
    return text.str();
  }

  boost::asio::io_context io_{1};
  std::filesystem::path folder_;
  HandlerOptions options_;
  std::map<std::string, Heard> heard_;
  std::optional<HandlerPool> pool_;
};

TEST_F(HandlerPoolTest, AnswersAndStreams) {
  StartHandler(
      "if text == 'stream': return Output().add_stream_content(iter(['a', 'b', {'c': 1}]))\n"
      "if text == 'none': return None\n"
      "if text == 'raise': raise ValueError('bad')\n"
      "return text.upper() + inputs.get_property('content-type') + os.getcwd()");
  EXPECT_EQ(Ask("hello").text, "HELLOtext/plain" + std::filesystem::canonical(folder_).string());
  EXPECT_EQ(heard_["hello"].status, 200);
  EXPECT_EQ(Ask("none").status, 204);
  EXPECT_EQ(Ask("raise").status, 424);
  EXPECT_THAT(heard_["raise"].text, HasSubstr("ValueError: bad"));
  EXPECT_THAT(Ask("stream").pieces, ElementsAre("a", "b", "{\"c\": 1}\n"));
  EXPECT_TRUE(heard_["stream"].streamed);
  EXPECT_EQ(pool_->restarts(), 0);
}

TEST_F(HandlerPoolTest, ModelThatCannotBeLoadedFailsAtOnceAndSaysWhy) {
  Start("import nowhere_to_be_found\n");
  Submit("waiting");
  RunUntil([&] { return pool_->state() == HandlerPool::State::kFailed; });
  EXPECT_THAT(pool_->status_text(), HasSubstr("nowhere_to_be_found"));
  Finish({"waiting"});
  EXPECT_THAT(Ask("late").failed, HasSubstr("nowhere_to_be_found"));
  EXPECT_FALSE(heard_["late"].by_handler);
}

TEST_F(HandlerPoolTest, LoadingTakesNoLongerThanItsTimeOut) {
  options_.model_loading_timeout = milliseconds(500);
  Start("time.sleep(600)\n");
  RunUntil([&] { return pool_->state() == HandlerPool::State::kFailed; });
  EXPECT_THAT(pool_->status_text(), HasSubstr("not loaded within 0.5 s"));
  RunUntil([&] { return pool_->worker_statuses().empty(); });
}

TEST_F(HandlerPoolTest, DeathsWhileLoadingAreCounted) {
  Start("print('about to die')\nopen('starts', 'a').write('x')\nos._exit(7)\n");
  RunUntil([&] { return pool_->state() == HandlerPool::State::kFailed; });
  EXPECT_THAT(pool_->status_text(), AllOf(HasSubstr("3 times"), HasSubstr("about to die")));
  EXPECT_EQ(FileText("starts"), "xxx");
}

TEST_F(HandlerPoolTest, PythonThatIsNotThere) {
  options_.launch.python = "python-of-nobody";
  Start("");
  RunUntil([&] { return pool_->state() == HandlerPool::State::kFailed; });
  EXPECT_THAT(pool_->status_text(), HasSubstr("cannot start python-of-nobody"));
}

TEST_F(HandlerPoolTest, CrashFailsItsOwnRequestAndNoOther) {
  StartHandler("if text == 'die': os._exit(3)\nif text == 'work': time.sleep(0.2)\nreturn text");
  for (const char* text : {"work", "die", "after", "later"}) Submit(text);
  Finish({"work", "die", "after", "later"});
  EXPECT_EQ(heard_["work"].text, "work");
  EXPECT_THAT(heard_["die"].failed, StartsWith("unavailable: the handler's process ended"));
  EXPECT_TRUE(heard_["die"].by_handler);
  EXPECT_EQ(heard_["after"].text, "after");
  EXPECT_EQ(heard_["later"].text, "later");
  EXPECT_EQ(pool_->restarts(), 1);
}

TEST_F(HandlerPoolTest, KilledInTheMiddleOfAStream) {
  StartHandler(
      "def count():\n"
      "    for i in range(1000000):\n"
      "        time.sleep(0.01)\n"
      "        yield str(i)\n"
      "return count() if text == 'stream' else text");
  Submit("stream");
  Submit("next");
  RunUntil([&] { return heard_["stream"].pieces.size() >= 3; });
  ASSERT_EQ(pool_->worker_statuses().size(), 1U);
  ::kill(pool_->worker_statuses().front().pid, SIGKILL);
  Finish({"stream", "next"});
  EXPECT_THAT(heard_["stream"].failed, HasSubstr("ended"));
  EXPECT_EQ(heard_["next"].text, "next");
}

TEST_F(HandlerPoolTest, DeathShowsThoughAChildOfTheHandlerHoldsTheSocket) {
  StartHandler(
      "pid = os.fork()\n"
      "if pid == 0: time.sleep(600)\n"
      "open('child', 'w').write(str(pid))\n"
      "os._exit(1)");
  EXPECT_THAT(Ask("x").failed, HasSubstr("ended"));
  // And the child is ended with it.
  const pid_t child = std::stoi(FileText("child"));
  RunUntil([&] {
    return ::kill(child, 0) != 0 || [&] {
      std::ifstream file(fmt::format("/proc/{}/stat", child));
      std::string text;
      std::getline(file, text);
      return text.find(") Z") != std::string::npos;
    }();
  });
}

TEST_F(HandlerPoolTest, SilenceLongerThanThePredictTimeOut) {
  options_.predict_timeout = milliseconds(700);
  StartHandler(
      "def slow():\n"
      "    for i in range(6):\n"
      "        time.sleep(0.2)\n"
      "        yield str(i)\n"
      "if text == 'hang': time.sleep(600)\n"
      "if text == 'stream': return slow()\n"
      "return text");
  EXPECT_THAT(Ask("hang").failed, HasSubstr("deadline_exceeded: the handler gave no answer for 0.7 s"));
  EXPECT_TRUE(heard_["hang"].by_handler);
  // A request waits no longer than that either, and Python may take longer to start again.
  RunUntil([&] { return pool_->state() == HandlerPool::State::kReady; });
  EXPECT_EQ(Ask("after").text, "after");
  EXPECT_EQ(Ask("stream").text, "012345");  // longer than the time-out, but never silent for so long
}

TEST_F(HandlerPoolTest, FullQueueRefusesAtOnce) {
  options_.job_queue_size = 2;
  StartHandler("while not os.path.exists('go'): time.sleep(0.01)\nreturn text");
  Submit("working");
  RunUntil([&] { return pool_->queued() == 0; });
  for (const char* text : {"a", "b", "c"}) Submit(text);
  Finish({"c"});
  EXPECT_THAT(heard_["c"].failed, StartsWith("overloaded"));
  EXPECT_FALSE(heard_["a"].ended);
  std::ofstream(folder_ / "go").put('x');
  Finish({"working", "a", "b"});
  EXPECT_EQ(heard_["b"].text, "b");
}

TEST_F(HandlerPoolTest, RequestsWaitNoLongerThanTheirDeadline) {
  StartHandler("time.sleep(0.5)\nreturn text");
  Submit("working");
  HandlerRequest request;
  request.deadline_ms = 50;
  std::string failed;
  pool_->Submit(std::move(request),
                [&](HandlerEvent event) { failed = std::get<HandlerFailed>(event).error.ToString(); });
  RunUntil([&] { return !failed.empty(); });
  EXPECT_THAT(failed, StartsWith("deadline_exceeded: waited in the queue"));
  EXPECT_FALSE(heard_["working"].ended);
  EXPECT_EQ(pool_->queued(), 0U);
}

const char* const kBatchHandler =
    "def handle(inputs):\n"
    "    if inputs.is_empty(): return None\n"
    "    texts = [one.get_as_string() for one in inputs.get_batches()]\n"
    "    with open('calls', 'a') as file: print(len(texts), end=' ', file=file)\n"
    "    if 'bad' in texts: raise ValueError('bad')\n"
    "    outputs = Output()\n"
    "    for i, text in enumerate(texts): outputs.add(text * 2, key='data', batch_index=i)\n"
    "    return outputs\n";

TEST_F(HandlerPoolTest, BatchesWhatComesTogether) {
  options_.batch_size = 3;
  options_.max_batch_delay = milliseconds(300);
  Start(kBatchHandler);
  for (const char* text : {"a", "b", "c", "d", "e"}) Submit(text);
  Finish({"a", "b", "c", "d", "e"});
  for (const char* text : {"a", "b", "c", "d", "e"}) EXPECT_EQ(heard_[text].text, std::string(text) + text);
  EXPECT_EQ(FileText("calls"), "3 2 ");
}

TEST_F(HandlerPoolTest, OneFailingMemberOfABatchFailsAlone) {
  options_.batch_size = 4;
  Start(kBatchHandler);
  for (const char* text : {"a", "bad", "c", "d"}) Submit(text);
  Finish({"a", "bad", "c", "d"});
  EXPECT_EQ(heard_["a"].text, "aa");
  EXPECT_EQ(heard_["bad"].status, 424);
  EXPECT_EQ(heard_["c"].text, "cc");
  EXPECT_EQ(heard_["d"].text, "dd");
  EXPECT_EQ(FileText("calls"), "4 1 1 1 1 ");
}

TEST_F(HandlerPoolTest, HandlerThatKnowsNoBatchesGetsSingleRequests) {
  options_.batch_size = 4;
  StartHandler("return Output().add(text)");
  for (const char* text : {"a", "b", "c"}) Submit(text);
  Finish({"a", "b", "c"});
  for (const char* text : {"a", "b", "c"}) EXPECT_EQ(heard_[text].text, text);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(Ask("d").text, "d");
  EXPECT_LT(std::chrono::steady_clock::now() - start, options_.max_batch_delay);  // does not wait for company
}

TEST_F(HandlerPoolTest, WorkersComeAndGoWithTheWork) {
  options_.max_workers = 3;
  options_.max_idle_time = milliseconds(300);
  StartHandler("time.sleep(0.1)\nreturn f'{os.getpid()}'");
  std::vector<std::string> texts;
  for (int i = 0; i < 60; ++i) texts.push_back(fmt::format("{}", i));
  for (const std::string& text : texts) Submit(text);
  Finish(texts);
  std::set<std::string> pids;
  for (const std::string& text : texts) pids.insert(heard_[text].text);
  EXPECT_THAT(pids.size(), AllOf(Ge(2U), Le(3U)));
  RunUntil([&] { return pool_->workers() == 1; });
  EXPECT_THAT(Ask("again").failed, "");
  EXPECT_EQ(pool_->restarts(), 0);
}

TEST_F(HandlerPoolTest, ClientsThatLeave) {
  StartHandler(
      "def count():\n"
      "    try:\n"
      "        for i in range(1000000):\n"
      "            time.sleep(0.01)\n"
      "            yield str(i)\n"
      "    finally: open('left', 'w').close()\n"
      "if text == 'stream': return count()\n"
      "open('seen', 'a').write(text)\n"
      "return text");
  const std::uint64_t stream = Submit("stream");
  const std::uint64_t queued = Submit("queued");
  RunUntil([&] { return heard_["stream"].pieces.size() >= 2; });
  pool_->Cancel(queued);
  pool_->Cancel(stream);
  pool_->Cancel(12345);
  EXPECT_EQ(Ask("next").text, "next");  // the stream was left, or this would never come
  EXPECT_TRUE(std::filesystem::exists(folder_ / "left"));
  EXPECT_EQ(FileText("seen"), "next");
  EXPECT_EQ(pool_->in_flight(), 0U);
}

TEST_F(HandlerPoolTest, FirstCallHasTheOptions) {
  options_.properties = {{"model_id", "opt"}, {"batch_size", "1"}};
  options_.launch.entry_point = "other.py";
  options_.launch.handler = "serve";
  std::ofstream(folder_ / "other.py")
      << "first = None\n"
         "def serve(inputs):\n"
         "    global first\n"
         "    if first is None: first = inputs.get_properties(); return None\n"
         "    return ' '.join(f'{k}={v}' for k, v in sorted(first.items()))\n";
  Start("");
  Submit("x");
  Finish({"x"});
  EXPECT_EQ(heard_["x"].text, fmt::format("batch_size=1 device_id=-1 model_dir={} model_id=opt "
                                          "tensor_parallel_degree=1",
                                          folder_.string()));
}

TEST_F(HandlerPoolTest, ProtocolIsNotDisturbedByWhatIsPrinted) {
  StartHandler(
      "os.write(1, b'\\xff\\x00 raw \\x1b[31m' + b'x' * 100000 + b'\\n')\n"
      "os.write(2, b'no end of line')\n"
      "os.system('echo from a child')\n"
      "return text");
  EXPECT_EQ(Ask("x").text, "x");
  EXPECT_EQ(Ask("y").text, "y");
}

TEST_F(HandlerPoolTest, WorkersDoNotInheritWhatIsOpenHere) {
  constexpr int kHigh = 200;  // above what Python opens
  const UniqueFd open_here(::fcntl(STDIN_FILENO, F_DUPFD, kHigh));
  ASSERT_GE(open_here.get(), kHigh);
  StartHandler("return str(os.path.exists(f'/proc/self/fd/{text}'))");
  EXPECT_EQ(Ask(std::to_string(open_here.get())).text, "False");
}

TEST_F(HandlerPoolTest, StoppingFailsWhatIsUnfinishedAndLeavesNoProcess) {
  StartHandler("time.sleep(600)");
  Submit("working");
  Submit("queued");
  RunUntil([&] { return pool_->queued() == 1; });
  const pid_t pid = pool_->worker_statuses().front().pid;
  pool_->Stop();
  EXPECT_NE(::kill(pid, 0), 0);
  EXPECT_THAT(heard_["working"].failed, HasSubstr("being shut down"));
  EXPECT_THAT(heard_["queued"].failed, HasSubstr("being shut down"));
}

TEST_F(HandlerPoolTest, EveryRankGetsEveryRequestAndRankZeroAnswers) {
  if (!InPath("mpirun")) GTEST_SKIP() << "there is no mpirun";
  options_.launch.ranks = 2;
  StartHandler(
      "rank, world = os.environ['RANK'], os.environ['WORLD_SIZE']\n"
      "assert os.environ['LOCAL_RANK'] == rank and os.environ['MASTER_ADDR'] and "
      "int(os.environ['MASTER_PORT'])\n"
      "assert inputs.get_property('tensor_parallel_degree') == world\n"
      "open('seen' + rank, 'a').write(text + ' ')\n"
      "if text == 'die': os._exit(1) if rank == '1' else time.sleep(600)\n"
      "if text == 'stream': return (f'{rank}{i}' for i in range(3))\n"
      "return 'from ' + rank + ' of ' + world");
  EXPECT_EQ(Ask("one").text, "from 0 of 2");
  EXPECT_EQ(Ask("stream").text, "000102");
  EXPECT_THAT(Ask("die").failed, HasSubstr("ended"));
  EXPECT_EQ(Ask("two").text, "from 0 of 2");
  // Rank 0 may have answered before rank 1 began.
  RunUntil([&] { return FileText("seen1") == "one stream die two "; });
  EXPECT_EQ(FileText("seen0").substr(0, 11), "one stream ");
}

}  // namespace
}  // namespace bloomery
