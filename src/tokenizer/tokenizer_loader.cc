// Building a Tokenizer from the files Hugging Face repositories hold.
#include <algorithm>
#include <memory>

#include "base/json.h"
#include "base/mapped_file.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/tokenizer.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

Result<json::object> ReadObject(const fs::path& path) {
  ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(json::value parsed, ParseJson(file->text(), path.string()));
  if (!parsed.is_object())
    return Fail(ErrorCode::kInvalidArgument, "{}: expected a JSON object", path.string());
  return std::move(parsed.get_object());
}

// A special token is written as a string or as {"content": …}.
std::string TokenText(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (value != nullptr && value->is_object()) value = value->get_object().if_contains("content");
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

bool Flag(const json::object& object, std::string_view key, bool fallback) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_bool() ? value->get_bool() : fallback;
}

bool IsType(const json::value* description, std::string_view type) {
  return description != nullptr && description->is_object() &&
         TokenText(description->get_object(), "type") == type;
}

// Whether the decoder amounts to joining bytes.
bool IsByteLevelDecoder(const json::value* decoder) {
  if (IsType(decoder, "ByteLevel")) return true;
  if (!IsType(decoder, "Sequence")) return false;
  const json::value* parts = decoder->get_object().if_contains("decoders");
  return parts != nullptr && parts->is_array() && !parts->get_array().empty() &&
         std::all_of(parts->get_array().begin(), parts->get_array().end(),
                     [](const json::value& part) { return IsType(&part, "ByteLevel"); });
}

}  // namespace

class TokenizerBuilder {
 public:
  TokenizerBuilder() : tokenizer_(new Tokenizer) {}

  Status AddTokenizerJson(const json::object& root) {
    if (const json::value* normalizer = root.if_contains("normalizer");
        normalizer != nullptr && !normalizer->is_null()) {
      if (!IsEmptySequence(*normalizer, "normalizers")) {
        return Fail(ErrorCode::kUnsupported, "normalizer \"{}\"; byte-level models have none",
                    TokenText(normalizer->get_object(), "type"));
      }
    }
    const json::value* model = root.if_contains("model");
    if (model == nullptr || !model->is_object()) return Fail(ErrorCode::kInvalidArgument, "no \"model\"");
    RETURN_IF_ERROR(AddModel(model->get_object()));
    RETURN_IF_ERROR(AddAddedTokens(root));
    const json::value* pre_tokenizer = root.if_contains("pre_tokenizer");
    ASSIGN_OR_RETURN(
        tokenizer_->pre_tokenizer_,
        PreTokenizer::FromJson(pre_tokenizer != nullptr ? *pre_tokenizer : json::value(nullptr)));
    if (!IsByteLevelDecoder(root.if_contains("decoder")))
      return Fail(ErrorCode::kUnsupported, "decoder other than ByteLevel");
    if (const json::value* post = root.if_contains("post_processor"); post != nullptr && post->is_object()) {
      RETURN_IF_ERROR(AddPostProcessor(post->get_object()));
    }
    return {};
  }

  Status AddVocabAndMerges(const fs::path& directory) {
    ASSIGN_OR_RETURN(const json::object vocab, ReadObject(directory / "vocab.json"));
    ASSIGN_OR_RETURN(const auto merges, MappedFile::Open(directory / "merges.txt"));
    RETURN_IF_ERROR(AddVocab(vocab));
    RETURN_IF_ERROR(AddMergeLines(merges->text()));
    ASSIGN_OR_RETURN(tokenizer_->pre_tokenizer_, PreTokenizer::Gpt2());
    return {};
  }

  // tokenizer_config.json and special_tokens_map.json: which tokens are bos, eos …; added_tokens.json: ids of
  // tokens given later. own_post_processor: vocab.json carries none, so add_bos_token decides.
  Status AddConfiguration(const fs::path& directory, bool own_post_processor) {
    if (const auto path = directory / "added_tokens.json"; Exists(path)) {
      ASSIGN_OR_RETURN(const json::object added, ReadObject(path));
      for (const auto& [content, id] : added) {
        if (!id.is_int64())
          return Fail(ErrorCode::kInvalidArgument, "{}: \"{}\" has no integer id", path.string(),
                      std::string_view(content));
        RETURN_IF_ERROR(AddAdded({CheckedId(id.get_int64()), content, false, false, false, false, false}));
      }
    }
    bool add_bos = false;
    for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
      if (!Exists(directory / name)) continue;
      ASSIGN_OR_RETURN(const json::object config, ReadObject(directory / name));
      RETURN_IF_ERROR(AddDecoderTokens(config));
      RETURN_IF_ERROR(AddSpecials(config));
      add_bos = Flag(config, "add_bos_token", add_bos);
      if (const std::string chat = TokenText(config, "chat_template"); !chat.empty())
        tokenizer_->chat_template_ = chat;
    }
    if (own_post_processor && add_bos && tokenizer_->bos_id_)
      tokenizer_->prefix_ids_ = {*tokenizer_->bos_id_};
    return {};
  }

  Result<std::shared_ptr<const Tokenizer>> Finish() {
    Tokenizer& t = *tokenizer_;
    std::int32_t size = t.bpe_.size();
    for (const AddedToken& token : t.added_.tokens()) size = std::max(size, token.id + 1);
    t.bytes_.resize(static_cast<std::size_t>(size));
    t.special_.resize(static_cast<std::size_t>(size), false);
    for (std::int32_t id = 0; id < t.bpe_.size(); ++id)
      t.bytes_[static_cast<std::size_t>(id)] = RawBytes(t.bpe_.content(id));
    for (const AddedToken& token : t.added_.tokens()) {
      t.bytes_[static_cast<std::size_t>(token.id)] = RawBytes(token.content);
      t.special_[static_cast<std::size_t>(token.id)] = token.special;
    }
    t.bpe_.IndexBytes(t.unk_id_);
    for (const auto* ids : {&t.prefix_ids_, &t.suffix_ids_}) {
      for (const std::int32_t id : *ids) {
        if (id < 0 || id >= size)
          return Fail(ErrorCode::kInvalidArgument, "post_processor: token id {} does not exist", id);
      }
    }
    return std::move(tokenizer_);
  }

 private:
  static bool IsEmptySequence(const json::value& value, std::string_view parts) {
    if (!IsType(&value, "Sequence")) return false;
    const json::value* list = value.get_object().if_contains(parts);
    return list != nullptr && list->is_array() && list->get_array().empty();
  }

  // Ids outside the sane range become −1, which every consumer refuses.
  static std::int32_t CheckedId(std::int64_t id) {
    return id >= 0 && id < Bpe::kMaxId ? static_cast<std::int32_t>(id) : -1;
  }

  // Tokens written in the byte alphabet stand for bytes; any others (an added "日本") for themselves.
  static std::string RawBytes(const std::string& content) {
    return BytesFromAlphabet(content).value_or(content);
  }

  Status AddModel(const json::object& model) {
    const json::value* type = model.if_contains("type");
    if (type != nullptr && !IsString(*type, "BPE"))
      return Fail(ErrorCode::kUnsupported, "model type {}; only BPE is supported", json::serialize(*type));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!TokenText(model, key).empty()) return Fail(ErrorCode::kUnsupported, "BPE with a {}", key);
    }
    if (Flag(model, "byte_fallback", false)) return Fail(ErrorCode::kUnsupported, "BPE with byte_fallback");
    const json::value* vocab = model.if_contains("vocab");
    const json::value* merges = model.if_contains("merges");
    if (vocab == nullptr || !vocab->is_object())
      return Fail(ErrorCode::kInvalidArgument, "model has no \"vocab\"");
    if (merges == nullptr || !merges->is_array())
      return Fail(ErrorCode::kInvalidArgument, "model has no \"merges\"");
    tokenizer_->bpe_.Reserve(vocab->get_object().size(), merges->get_array().size());
    RETURN_IF_ERROR(AddVocab(vocab->get_object()));
    for (const json::value& merge : merges->get_array()) RETURN_IF_ERROR(AddMerge(merge));
    tokenizer_->bpe_.set_ignore_merges(Flag(model, "ignore_merges", false));
    if (const std::string unknown = TokenText(model, "unk_token"); !unknown.empty())
      tokenizer_->unk_id_ = tokenizer_->bpe_.Find(unknown);
    return {};
  }

  static bool IsString(const json::value& value, std::string_view text) {
    return value.is_string() && value.get_string() == text;
  }

  Status AddVocab(const json::object& vocab) {
    for (const auto& [content, id] : vocab) {
      if (!id.is_int64())
        return Fail(ErrorCode::kInvalidArgument, "vocab: \"{}\" has no integer id",
                    std::string_view(content));
      RETURN_IF_ERROR(tokenizer_->bpe_.AddToken(content, CheckedId(id.get_int64())));
    }
    return {};
  }

  // "a b", or ["a", "b"].
  Status AddMerge(const json::value& merge) {
    if (merge.is_string()) return AddMergeLine(merge.get_string());
    if (merge.is_array() && merge.get_array().size() == 2 && merge.get_array()[0].is_string() &&
        merge.get_array()[1].is_string()) {
      return tokenizer_->bpe_.AddMerge(merge.get_array()[0].get_string(), merge.get_array()[1].get_string());
    }
    return Fail(ErrorCode::kInvalidArgument, "merges: {} is no pair", json::serialize(merge));
  }

  Status AddMergeLine(std::string_view line) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      return Fail(ErrorCode::kInvalidArgument, "merges: \"{}\" is no pair", line);
    }
    return tokenizer_->bpe_.AddMerge(line.substr(0, space), line.substr(space + 1));
  }

  Status AddMergeLines(std::string_view text) {
    for (bool first = true; !text.empty(); first = false) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty() || (first && line.starts_with("#version"))) continue;
      RETURN_IF_ERROR(AddMergeLine(line));
    }
    return {};
  }

  Status AddAdded(AddedToken token) {
    if (token.id < 0)
      return Fail(ErrorCode::kInvalidArgument, "added token \"{}\" has no usable id", token.content);
    tokenizer_->added_.Add(std::move(token));
    return {};
  }

  static AddedToken ParseAdded(const json::object& object, std::int32_t id) {
    const bool special = Flag(object, "special", false);
    return {id,
            TokenText(object, "content"),
            special,
            Flag(object, "single_word", false),
            Flag(object, "lstrip", false),
            Flag(object, "rstrip", false),
            Flag(object, "normalized", !special)};
  }

  Status AddAddedTokens(const json::object& root) {
    const json::value* list = root.if_contains("added_tokens");
    if (list == nullptr || !list->is_array()) return {};
    for (const json::value& entry : list->get_array()) {
      if (!entry.is_object()) return Fail(ErrorCode::kInvalidArgument, "added_tokens must hold objects");
      ASSIGN_OR_RETURN(const auto id, GetInt(entry.get_object(), "id"));
      RETURN_IF_ERROR(AddAdded(ParseAdded(entry.get_object(), CheckedId(id.value_or(-1)))));
    }
    return {};
  }

  // tokenizer_config.json's {"added_tokens_decoder": {"2": {"content": "</s>", …}}}.
  Status AddDecoderTokens(const json::object& config) {
    const json::value* decoder = config.if_contains("added_tokens_decoder");
    if (decoder == nullptr || !decoder->is_object()) return {};
    for (const auto& [id_text, entry] : decoder->get_object()) {
      if (!entry.is_object()) continue;
      const std::int64_t id = std::strtoll(std::string(id_text).c_str(), nullptr, 10);
      RETURN_IF_ERROR(AddAdded(ParseAdded(entry.get_object(), CheckedId(id))));
    }
    return {};
  }

  Status AddSpecials(const json::object& config) {
    Tokenizer& t = *tokenizer_;
    const std::pair<const char*, std::optional<std::int32_t>*> roles[] = {{"bos_token", &t.bos_id_},
                                                                          {"eos_token", &t.eos_id_},
                                                                          {"pad_token", &t.pad_id_},
                                                                          {"unk_token", &t.unk_id_}};
    for (const auto& [key, role] : roles) {
      const std::string content = TokenText(config, key);
      if (content.empty()) continue;
      const auto id = t.TokenToId(content);
      if (!id) continue;
      *role = id;
      MarkSpecial(*id, content);
    }
    return {};
  }

  // A token named as bos, eos … is special even where no list of added tokens says so.
  void MarkSpecial(std::int32_t id, const std::string& content) {
    for (const AddedToken& token : tokenizer_->added_.tokens()) {
      if (token.id == id) return;
    }
    tokenizer_->added_.Add({id, content, true, false, false, false, false});
  }

  Status AddPostProcessor(const json::object& description) {
    const std::string type = TokenText(description, "type");
    if (type == "ByteLevel") return {};  // trims offsets, which we do not keep
    if (type == "TemplateProcessing") return AddTemplate(description);
    if (type == "RobertaProcessing" || type == "BertProcessing") return AddRoberta(description);
    if (type == "Sequence") {
      const json::value* processors = description.if_contains("processors");
      if (processors == nullptr || !processors->is_array())
        return Fail(ErrorCode::kInvalidArgument, "post_processor Sequence without processors");
      for (const json::value& processor : processors->get_array()) {
        if (!processor.is_object() || processor.get_object().contains("processors")) {
          return Fail(ErrorCode::kUnsupported, "post_processor Sequence inside a Sequence");
        }
        RETURN_IF_ERROR(AddPostProcessor(processor.get_object()));
      }
      return {};
    }
    return Fail(ErrorCode::kUnsupported, "post_processor \"{}\"", type);
  }

  // {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": …}], "special_tokens": {"<s>": {"ids": [1]}}}
  Status AddTemplate(const json::object& description) {
    const json::value* single = description.if_contains("single");
    const json::value* specials = description.if_contains("special_tokens");
    if (single == nullptr || !single->is_array())
      return Fail(ErrorCode::kInvalidArgument, "TemplateProcessing without \"single\"");
    bool before = true;
    for (const json::value& piece : single->get_array()) {
      if (!piece.is_object())
        return Fail(ErrorCode::kInvalidArgument, "TemplateProcessing: a piece is no object");
      const json::value* special = piece.get_object().if_contains("SpecialToken");
      if (special == nullptr) {
        before = false;
        continue;
      }
      const std::string name = special->is_object() ? TokenText(special->get_object(), "id") : "";
      const json::value* entry =
          specials != nullptr && specials->is_object() ? specials->get_object().if_contains(name) : nullptr;
      const json::value* ids =
          entry != nullptr && entry->is_object() ? entry->get_object().if_contains("ids") : nullptr;
      if (ids == nullptr || !ids->is_array())
        return Fail(ErrorCode::kInvalidArgument, "TemplateProcessing: no ids for \"{}\"", name);
      for (const json::value& id : ids->get_array()) {
        (before ? tokenizer_->prefix_ids_ : tokenizer_->suffix_ids_)
            .push_back(id.is_int64() ? CheckedId(id.get_int64()) : -1);
      }
    }
    return {};
  }

  // {"cls": ["<s>", 0], "sep": ["</s>", 2]}
  Status AddRoberta(const json::object& description) {
    const std::pair<const char*, std::vector<std::int32_t>*> ends[] = {{"cls", &tokenizer_->prefix_ids_},
                                                                       {"sep", &tokenizer_->suffix_ids_}};
    for (const auto& [key, ids] : ends) {
      const json::value* pair = description.if_contains(key);
      if (pair == nullptr || !pair->is_array() || pair->get_array().size() != 2 ||
          !pair->get_array()[1].is_int64()) {
        return Fail(ErrorCode::kInvalidArgument, "post_processor without a usable \"{}\"", key);
      }
      ids->push_back(CheckedId(pair->get_array()[1].get_int64()));
    }
    return {};
  }

  std::shared_ptr<Tokenizer> tokenizer_;
};

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json) {
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(tokenizer_json, "tokenizer.json"));
  if (!parsed.is_object()) return Fail(ErrorCode::kInvalidArgument, "tokenizer.json: expected a JSON object");
  TokenizerBuilder builder;
  RETURN_IF_ERROR(builder.AddTokenizerJson(parsed.get_object()));
  return builder.Finish();
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::filesystem::path& directory) {
  const bool whole = Exists(directory / "tokenizer.json");
  if (!whole && (!Exists(directory / "vocab.json") || !Exists(directory / "merges.txt"))) {
    return Fail(ErrorCode::kNotFound,
                "{}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt",
                directory.string());
  }
  TokenizerBuilder builder;
  const auto build = [&]() -> Status {
    if (!whole) return builder.AddVocabAndMerges(directory);
    // The largest of a model's JSON files: parsed into one arena, which also goes as one.
    ASSIGN_OR_RETURN(const auto file, MappedFile::Open(directory / "tokenizer.json"));
    json::monotonic_resource arena(2 * file->size_bytes() + 4096);
    ASSIGN_OR_RETURN(const json::value parsed, ParseJson(file->text(), "tokenizer.json", &arena));
    if (!parsed.is_object()) return Fail(ErrorCode::kInvalidArgument, "expected a JSON object");
    return builder.AddTokenizerJson(parsed.get_object());
  };
  Status built = build();
  if (built) built = builder.AddConfiguration(directory, /*own_post_processor=*/!whole);
  if (!built)
    return WithContext(std::move(built).error(),
                       (directory / (whole ? "tokenizer.json" : "vocab.json")).string());
  return builder.Finish();
}

}  // namespace bloomery
