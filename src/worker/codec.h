// JSON forms of the engine's requests and events, exact in both directions: floats round-trip, −∞ is null,
// and bytes that are no UTF-8 travel as hexadecimal.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "engine/request.h"

namespace bloomery {

json::object EncodeRequest(const GenerationRequest& request);
Result<GenerationRequest> DecodeRequest(const json::object& object);

json::object EncodeEvent(const GenerationEvent& event);
Result<GenerationEvent> DecodeEvent(const json::object& object);

json::object EncodeInfo(const ModelInfo& info);
Result<ModelInfo> DecodeInfo(const json::object& object);

json::object EncodeStats(const EngineStats& stats);
Result<EngineStats> DecodeStats(const json::object& object);

}  // namespace bloomery
