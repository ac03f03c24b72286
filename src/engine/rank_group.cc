#include "engine/rank_group.h"

#include <cstring>

namespace bloomery {

Result<std::unique_ptr<RankGroup>> MakeRankGroup(std::unique_ptr<Communicator> world, Grid grid) {
  if (world->size() != grid.size()) {
    return Fail(ErrorCode::kInvalidArgument,
                "--tp {} --pp {} need {} ranks and there are {}: start `mpirun -n {} bloomery …`",
                grid.tensor_ranks, grid.stages, grid.size(), world->size(), grid.size());
  }
  auto group = std::make_unique<RankGroup>();
  group->grid = grid;
  ASSIGN_OR_RETURN(group->tensor, world->Split(world->rank() / grid.tensor_ranks));
  ASSIGN_OR_RETURN(group->pipeline, world->Split(world->rank() % grid.tensor_ranks));
  group->world = std::move(world);
  return group;
}

Result<std::vector<std::string>> GatherTexts(Communicator& world, const std::string& mine) {
  std::vector<std::string> texts;
  for (int root = 0; root < world.size(); ++root) {
    std::vector<std::byte> message;
    if (root == world.rank()) {
      message.resize(mine.size());
      std::memcpy(message.data(), mine.data(), mine.size());
    }
    RETURN_IF_ERROR(world.Broadcast(message, root));
    texts.emplace_back(reinterpret_cast<const char*>(message.data()), message.size());
  }
  return texts;
}

Status AgreeOnStatus(Communicator& world, const Status& mine) {
  // The code's name and the message, or nothing.
  std::string text;
  if (!mine) text = fmt::format("{}\n{}", ErrorCodeName(mine.error().code), mine.error().message);
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, GatherTexts(world, text));
  if (!mine) return mine;
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    const std::size_t end = texts[rank].find('\n');
    return Fail(ErrorCodeFromName(texts[rank].substr(0, end)), "rank {}: {}", rank,
                texts[rank].substr(end + 1));
  }
  return {};
}

}  // namespace bloomery
