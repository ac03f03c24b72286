// Calls that the programs of all ranks of a model make alike, as a model.py does that runs on every rank:
// rank 0's engine computes, the others follow it, and all of them get the same events. Left out: who starts
// the ranks, and whose turn it is within one.
//
//   every rank:  Meet ── the same call? ──▶
//   rank 0:      Submit with Share's sink ▸ steps ▸ … ▸ after the last event: the end, and all events
//   others:      Take: follow the steps until that end ▸ the events
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "collective/communicator.h"
#include "engine/group.h"
#include "engine/model_runner.h"
#include "engine/request.h"

namespace bloomery {

// What ranks come to each other with, in a form that is the same text for the same call.
class RankCall {
 public:
  // Seeds and ids may differ from rank to rank: rank 0's hold.
  static RankCall Generate(std::span<const GenerationRequest> requests);
  static RankCall Logits(std::span<const std::int32_t> tokens);
  // Of a rank other than 0: whatever rank 0's is.
  static RankCall Follow();
  static RankCall Close();

  bool generates() const;
  bool closes() const;
  std::vector<std::int32_t> tokens() const;  // of Logits

 private:
  friend class RankCalls;
  explicit RankCall(std::string text) : text_(std::move(text)) {}

  std::string text_;
};

// Used by one thread at a time, and by none while rank 0's engine has requests of a call.
class RankCalls {
 public:
  // `world` must outlive it.
  explicit RankCalls(Communicator& world) : world_(world) {}

  // Collective. Rank 0's call, where all ranks make that; one rank's error instead of a call is every rank's
  // error, and each may go on to the next call. kInvalidArgument: they make different calls.
  //
  // When one closes, all of them are over, whatever call they came with: kUnavailable on those that have not
  // closed. Then rank 0 ends its engine, the others Follow to that end, and nobody meets any more. So it is
  // when a rank is lost.
  Result<RankCall> Meet(const Result<RankCall>& mine);
  bool over() const { return over_; }

  // Rank 0: the sink for a call's requests, so many. It passes their events on to `sink`; the others have
  // theirs before the very last is passed on. The engine must have no other requests meanwhile, and its steps
  // one at a time.
  std::shared_ptr<EventSink> Share(std::size_t requests, std::shared_ptr<EventSink> sink);

  // Other ranks: computes what rank 0 says until the call's end. Then `sink` gets all its events.
  Status Take(ModelRunner& runner, EventSink& sink);

 private:
  class SharingSink;

  Communicator& world_;
  bool over_ = false;
};

}  // namespace bloomery
