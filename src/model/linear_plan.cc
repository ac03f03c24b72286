#include "model/linear_plan.h"

#include <fmt/format.h>

#include <utility>

namespace bloomery {
namespace {

// The blocks' rows, of which the part has its own if they are cut, and else all.
LinearPlan Rows(bool cut, std::vector<OutputBlock> outputs, std::int64_t columns, bool bias) {
  std::int64_t rows = 0;
  for (const OutputBlock& block : outputs) rows += block.rows;
  return {cut ? Cut::kOutputs : Cut::kNone, rows, columns, bias, std::move(outputs), columns, 0};
}

LinearPlan Whole(std::int64_t rows, std::int64_t columns, bool bias) {
  return Rows(/*cut=*/false, {{rows, 0, rows}}, columns, bias);
}

OutputBlock Block(std::int64_t whole, const Range& mine) { return {whole, mine.begin, mine.size}; }

// One of the parts adds the bias.
LinearPlan CutInputs(std::int64_t rows, std::int64_t columns, const Range& mine, bool bias,
                     const Part& part) {
  const bool adds = bias && part.leads_sums();
  return {Cut::kInputs, rows, mine.size, adds, {{rows, 0, rows}}, columns, mine.begin};
}

std::string WithoutSuffix(const std::string& name) {
  static constexpr std::string_view kSuffix = ".weight";
  return name.ends_with(kSuffix) ? name.substr(0, name.size() - kSuffix.size()) : name;
}

}  // namespace

LinearPlan PlanOf(const ModelSpec& spec, const Part& part, LinearKind kind) {
  const std::int64_t dim = spec.head_dim;
  const Range q{part.heads.begin * dim, part.heads.size * dim};
  const Range kv{part.kv_heads.begin * dim, part.kv_heads.size * dim};
  const Splits& splits = spec.splits;
  switch (kind) {
    case LinearKind::kEmbed:
    case LinearKind::kHead:
      return Rows(splits.cuts_vocabulary(), {Block(spec.vocab_size, part.vocab)}, spec.embed_size, false);
    case LinearKind::kProjectIn:
      return Whole(spec.hidden_size, spec.embed_size, false);
    case LinearKind::kProjectOut:
      return Whole(spec.embed_size, spec.hidden_size, false);
    case LinearKind::kQkv:
      return Rows(splits.cuts_attention(),
                  {Block(spec.q_size(), q), Block(spec.kv_size(), kv), Block(spec.kv_size(), kv)},
                  spec.hidden_size, spec.bias.qkv);
    case LinearKind::kAttentionOut:
      if (!splits.cuts_attention()) return Whole(spec.hidden_size, spec.q_size(), spec.bias.attention_out);
      return CutInputs(spec.hidden_size, spec.q_size(), q, spec.bias.attention_out, part);
    case LinearKind::kFfnUp: {
      const OutputBlock block = Block(spec.ffn_size, part.ffn);
      return Rows(splits.cuts_ffn(), spec.gated_ffn ? std::vector{block, block} : std::vector{block},
                  spec.hidden_size, spec.bias.ffn_up);
    }
    case LinearKind::kFfnDown:
      break;
  }
  if (!splits.cuts_ffn()) return Whole(spec.hidden_size, spec.ffn_size, spec.bias.ffn_down);
  return CutInputs(spec.hidden_size, spec.ffn_size, part.ffn, spec.bias.ffn_down, part);
}

bool TableIsHead(const ModelSpec& spec, const Part& part) {
  return spec.tied_head && part.first_stage() && part.last_stage();
}

std::vector<LinearRole> StepRoles(const ModelSpec& spec, const Part& part) {
  std::vector<LinearRole> roles;
  if (part.first_stage() && spec.projected()) roles.push_back({LinearKind::kProjectIn});
  for (std::int64_t layer = part.layers.begin; layer < part.layers.end(); ++layer) {
    for (const LinearKind kind : kLayerLinears) roles.push_back({kind, layer});
  }
  if (!part.last_stage()) return roles;
  if (spec.projected()) roles.push_back({LinearKind::kProjectOut});
  roles.push_back({TableIsHead(spec, part) ? LinearKind::kEmbed : LinearKind::kHead});
  return roles;
}

std::vector<std::string> StemsOf(const ModelSpec& spec, const LinearRole& role) {
  const TensorNames& names = spec.names;
  const std::string prefix = LayerPrefix(spec, role.layer);
  switch (role.kind) {
    case LinearKind::kEmbed:
      return {WithoutSuffix(names.embed)};
    case LinearKind::kHead:
      return {WithoutSuffix(spec.tied_head ? names.embed : names.head)};
    case LinearKind::kProjectIn:
      return {WithoutSuffix(names.project_in)};
    case LinearKind::kProjectOut:
      return {WithoutSuffix(names.project_out)};
    case LinearKind::kQkv: {
      std::vector<std::string> stems;
      for (const std::string& name : names.qkv) stems.push_back(prefix + name);
      return stems;
    }
    case LinearKind::kAttentionOut:
      return {prefix + names.attention_out};
    case LinearKind::kFfnUp:
      if (spec.gated_ffn) return {prefix + names.ffn_gate, prefix + names.ffn_up};
      return {prefix + names.ffn_up};
    case LinearKind::kFfnDown:
      break;
  }
  return {prefix + names.ffn_down};
}

std::string LayerPrefix(const ModelSpec& spec, std::int64_t layer) {
  static constexpr std::string_view kHole = "{layer}";
  std::string name = spec.names.layer;
  if (const std::size_t at = name.find(kHole); at != std::string::npos)
    name.replace(at, kHole.size(), std::to_string(layer));
  return name;
}

std::string ShardName(const LinearRole& role) {
  switch (role.kind) {
    case LinearKind::kEmbed:
      return "embed";
    case LinearKind::kHead:
      return "head";
    case LinearKind::kProjectIn:
      return "project_in";
    case LinearKind::kProjectOut:
      return "project_out";
    case LinearKind::kQkv:
      return fmt::format("layers.{}.qkv", role.layer);
    case LinearKind::kAttentionOut:
      return fmt::format("layers.{}.attention_out", role.layer);
    case LinearKind::kFfnUp:
      return fmt::format("layers.{}.ffn_up", role.layer);
    case LinearKind::kFfnDown:
      break;
  }
  return fmt::format("layers.{}.ffn_down", role.layer);
}

}  // namespace bloomery
