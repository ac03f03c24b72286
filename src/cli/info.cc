// bloomery info: what a model is and what it needs, without loading it; and what this processor offers.
#include "cli/commands.h"
#include "cli/remote_model.h"
#include "cli/session.h"
#include "kernels/cpu_device.h"
#include "model/weights.h"

namespace bloomery {
namespace {

struct InfoFlags {
  ModelFlags model;
  bool json = false;
};

struct Sizes {
  DType dtype;
  Footprint footprint;
};

json::object ToJson(const std::string& name, const ModelSpec& spec, const std::vector<Sizes>& sizes,
                    const Device& device) {
  json::object bytes;
  json::object per_step;
  for (const Sizes& s : sizes) {
    bytes[DTypeName(s.dtype)] = s.footprint.weight_bytes;
    per_step[DTypeName(s.dtype)] = s.footprint.weight_bytes_per_step;
  }
  json::object kv_bytes;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    const KvCacheShape shape{static_cast<int>(spec.layers), static_cast<int>(spec.kv_heads),
                             static_cast<int>(spec.head_dim), dtype};
    kv_bytes[DTypeName(dtype)] = shape.BytesPerToken();
  }
  return {{"model", name},
          {"architecture", spec.architecture},
          {"parameters", spec.ParameterCount()},
          {"layers", spec.layers},
          {"hidden_size", spec.hidden_size},
          {"heads", spec.heads},
          {"kv_heads", spec.kv_heads},
          {"ffn_size", spec.ffn_size},
          {"vocab_size", spec.vocab_size},
          {"max_context_tokens", spec.max_positions},
          {"checkpoint_dtype",
           spec.checkpoint_dtype ? json::value(DTypeName(*spec.checkpoint_dtype)) : json::value(nullptr)},
          {"weight_bytes", std::move(bytes)},
          {"weight_bytes_per_step", std::move(per_step)},
          {"kv_bytes_per_token", std::move(kv_bytes)},
          {"device", device.Describe()},
          {"cpu_features", CpuFeatures()}};
}

void Print(const json::object& info) {
  for (const auto& [key, value] : info) {
    if (const auto* group = value.if_object()) {
      fmt::print("{}:\n", std::string_view(key));
      for (const auto& [dtype, bytes] : *group) {
        const auto count = static_cast<double>(bytes.to_number<std::uint64_t>());
        fmt::print("  {:<6} {:>16.0f}  ({:.3f} GiB)\n", std::string_view(dtype), count, count / 0x1p30);
      }
    } else if (const auto* text = value.if_string()) {
      fmt::print("{}: {}\n", std::string_view(key), std::string_view(*text));
    } else {
      fmt::print("{}: {}\n", std::string_view(key), json::serialize(value));
    }
  }
}

Status Info(const InfoFlags& flags) {
  ASSIGN_OR_RETURN(const LoadOptions options, ToLoadOptions(flags.model));
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecOf(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, MakeDevice(flags.model));
  std::vector<Sizes> sizes;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8, DType::kI4})
    sizes.push_back({dtype, WeightFootprint(spec, WholeModel(spec), dtype, *device)});
  const json::object info =
      ToJson(options.shape.empty() ? options.name : options.shape, spec, sizes, *device);
  if (flags.json) {
    fmt::print("{}\n", json::serialize(info));
  } else {
    Print(info);
  }
  return {};
}

}  // namespace

void AddInfo(CLI::App& app) {
  auto flags = std::make_shared<InfoFlags>();
  CLI::App* command = app.add_subcommand(
      "info", "Show a model's architecture and what it takes in memory, without loading it");
  AddModelArgument(*command, flags->model);
  AddPolicyFlag(*command, flags->model);
  command->add_option_function<std::string>(
      "--shape",
      [flags](const std::string& shape) {
        flags->model.shape = shape;
        flags->model.load_format = "dummy";
      },
      "Instead of MODEL: a published size such as opt-30b or bloom-176b");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->callback([flags] {
    ExitOnError(FetchModel(flags->model));
    ExitOnError(Info(*flags));
  });
}

}  // namespace bloomery
