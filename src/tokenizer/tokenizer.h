// Text to token ids and back, exactly as Hugging Face's `tokenizers` does for byte-level BPE models (BLOOM,
// OPT, GPT-2 …). Left out: training, truncation, padding, other model types (Unigram, WordPiece).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizer.h"

namespace bloomery {

// Immutable and thread safe.
class Tokenizer {
 public:
  // Reads DIR/tokenizer.json, or vocab.json and merges.txt; and beside either tokenizer_config.json,
  // special_tokens_map.json and added_tokens.json where they exist. Errors name the file and what is missing
  // or not supported.
  static Result<std::shared_ptr<const Tokenizer>> Load(const std::filesystem::path& directory);

  // From the text of a tokenizer.json alone.
  static Result<std::shared_ptr<const Tokenizer>> FromJson(std::string_view tokenizer_json);

  // Invalid UTF-8 in `text` is replaced by U+FFFD first. add_special_tokens: what the post-processor puts
  // around a text.
  std::vector<std::int32_t> Encode(std::string_view text, bool add_special_tokens = true) const;

  // Unknown ids are skipped; bytes that are no UTF-8 become U+FFFD.
  std::string Decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const;

  // The bytes one token stands for, perhaps part of a character. Empty for ids that do not exist.
  std::string TokenBytes(std::int32_t id) const;
  bool IsSpecial(std::int32_t id) const;
  std::optional<std::int32_t> TokenToId(std::string_view content) const;

  std::int32_t vocab_size() const { return static_cast<std::int32_t>(bytes_.size()); }  // highest id + 1
  std::optional<std::int32_t> bos_id() const { return bos_id_; }
  std::optional<std::int32_t> eos_id() const { return eos_id_; }
  std::optional<std::int32_t> pad_id() const { return pad_id_; }
  std::optional<std::int32_t> unk_id() const { return unk_id_; }
  // Jinja source from tokenizer_config.json; empty for models without one.
  const std::string& chat_template() const { return chat_template_; }

 private:
  friend class TokenizerBuilder;
  Tokenizer() = default;

  Bpe bpe_;
  AddedTokens added_;
  std::optional<PreTokenizer> pre_tokenizer_;
  std::vector<std::int32_t> prefix_ids_;  // what the post-processor puts before a text
  std::vector<std::int32_t> suffix_ids_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;       // by id
  std::optional<std::int32_t> bos_id_;
  std::optional<std::int32_t> eos_id_;
  std::optional<std::int32_t> pad_id_;
  std::optional<std::int32_t> unk_id_;
  std::string chat_template_;
};

// Decodes a sequence token by token: never splits a character, and all Push results with Flush's behind them
// are Decode of all ids. Cheap to copy (beams).
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens = true)
      : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {}

  // Text that became certain with this token; may be empty.
  std::string Push(std::int32_t id);
  // The rest, an unfinished character as U+FFFD.
  std::string Flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_tokens_ = true;
  std::string held_;  // the beginning of a character
};

}  // namespace bloomery
