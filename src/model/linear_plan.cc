#include "model/linear_plan.h"

#include <fmt/format.h>

namespace bloomery {
namespace {

LinearPlan Whole(std::int64_t rows, std::int64_t columns, bool bias) {
  return {Cut::kNone, rows, columns, bias, rows, columns, 0, 0};
}

LinearPlan CutOutputs(std::int64_t rows, const Range& mine, std::int64_t columns, bool bias) {
  return {Cut::kOutputs, mine.size, columns, bias, rows, columns, mine.begin, 0};
}

// One of the parts adds the bias.
LinearPlan CutInputs(std::int64_t rows, std::int64_t columns, const Range& mine, bool bias,
                     const Part& part) {
  return {Cut::kInputs, rows, mine.size, bias && part.leads_sums(), rows, columns, 0, mine.begin};
}

std::string WithoutSuffix(const std::string& name) {
  static constexpr std::string_view kSuffix = ".weight";
  return name.ends_with(kSuffix) ? name.substr(0, name.size() - kSuffix.size()) : name;
}

}  // namespace

LinearPlan PlanOf(const ModelSpec& spec, const Part& part, LinearKind kind) {
  const std::int64_t dim = spec.head_dim();
  const Range context{part.heads.begin * dim, part.heads.size * dim};
  switch (kind) {
    case LinearKind::kEmbed:
    case LinearKind::kHead:
      return CutOutputs(spec.vocab_size, part.vocab, spec.embed_size, false);
    case LinearKind::kProjectIn:
      return Whole(spec.hidden_size, spec.embed_size, false);
    case LinearKind::kProjectOut:
      return Whole(spec.embed_size, spec.hidden_size, false);
    case LinearKind::kQkv: {
      LinearPlan plan = CutOutputs(spec.hidden_size, context, spec.hidden_size, spec.linear_bias);
      plan.out_features *= 3;
      return plan;
    }
    case LinearKind::kAttentionOut:
      return CutInputs(spec.hidden_size, spec.hidden_size, context, spec.linear_bias, part);
    case LinearKind::kFfnUp:
      return CutOutputs(spec.ffn_size, part.ffn, spec.hidden_size, spec.linear_bias);
    case LinearKind::kFfnDown:
      break;
  }
  return CutInputs(spec.hidden_size, spec.ffn_size, part.ffn, spec.linear_bias, part);
}

bool TableIsHead(const ModelSpec& spec, const Part& part) {
  return spec.tied_head && part.first_stage() && part.last_stage();
}

std::vector<LinearRole> StepRoles(const ModelSpec& spec, const Part& part) {
  std::vector<LinearRole> roles;
  if (part.first_stage() && spec.projected()) roles.push_back({LinearKind::kProjectIn});
  for (std::int64_t layer = part.layers.begin; layer < part.layers.end(); ++layer) {
    for (const LinearKind kind :
         {LinearKind::kQkv, LinearKind::kAttentionOut, LinearKind::kFfnUp, LinearKind::kFfnDown})
      roles.push_back({kind, layer});
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
