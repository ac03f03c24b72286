// What each fuzzer does with its input, shared with the test that replays the seeds
// (tests/fuzz_seeds_test.cc). An input may be refused; it may not crash, hang, leak or overflow, and where it
// is accepted the invariants asserted here must hold.
#pragma once

#include <string_view>

namespace bloomery {

void FuzzSafetensors(std::string_view input);
void FuzzTorchFile(std::string_view input);  // the input as a whole archive, and as a pickle alone
void FuzzTokenizer(std::string_view input);  // tokenizer.json, a NUL, text to encode
void FuzzHttpBody(std::string_view input);   // first byte: the dialect; the rest: a body
// serving.properties; after a NUL config.properties, after another NUL KEY=VALUE lines of an environment.
void FuzzProperties(std::string_view input);
void FuzzArchive(std::string_view input);  // a tar, tar.gz or zip
// What a store answers: first byte: the status; lines of headers, an empty line, and a body. Every answer is
// the same, whatever was asked.
void FuzzS3Answer(std::string_view input);

}  // namespace bloomery
