// Makers of exchanges, one a dialect: a body in, an Exchange or an error out. Shapes with examples:
// docs/reference/http-examples.md.
#pragma once

#include <memory>
#include <span>

#include "api/exchange.h"

namespace bloomery {

// OpenAI's POST /v1/completions and /v1/chat/completions, with the extensions that other servers of that API
// have (top_k, repetition_penalty, min_tokens, ignore_eos, stop_token_ids …).
Result<std::unique_ptr<Exchange>> MakeCompletion(const ApiRequest& request, const ModelInfo& model);
Result<std::unique_ptr<Exchange>> MakeChatCompletion(const ApiRequest& request, const ModelInfo& model);
HttpAnswer ListModels(std::span<const ModelInfo> models, std::int64_t created_s);

// text-generation-inference's POST /generate and /generate_stream, and / which is either by its "stream".
enum class TgiMode : std::uint8_t { kGenerate, kStream, kByField };
Result<std::unique_ptr<Exchange>> MakeTgi(const ApiRequest& request, TgiMode mode);

// POST /invocations and /predictions/{model}: what SageMaker endpoints built on DJL Serving take. The
// answer's shape follows the body's:
//
//   text/plain                                         [{"generated_text": full text}]
//   {"inputs": text, "parameters": …, "stream": bool}  {"generated_text": new text, "details"?}   DJL's
//   rolling batch; JSON lines when streamed
//   {"inputs": [text …], "parameters": …}              [[{"generated_text": full text}] …] transformers'
//   pipeline
//   {"input": text or [text …], "gen_kwargs": …}       [full text …]                              the BLOOM
//   notebooks of 2022
//   {"prompt": …} or {"messages": …}                   as /v1/completions and /v1/chat/completions
//
// With BatchShape::kOutputs a list of inputs is answered by {"outputs": [full text …]}, the shape of the 2023
// notebooks' own model.py, whose body is the same as the pipeline's.
enum class BatchShape : std::uint8_t { kPipeline, kOutputs };
Result<std::unique_ptr<Exchange>> MakeInvocation(const ApiRequest& request, const ModelInfo& model,
                                                 BatchShape shape);

}  // namespace bloomery
