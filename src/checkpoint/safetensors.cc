#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <optional>
#include <vector>

#include "base/json.h"

namespace bloomery {
namespace {

constexpr std::uint64_t kLengthBytes = 8;               // u64 little-endian: length of the JSON header
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

constexpr std::array<std::pair<std::string_view, DType>, 10> kDTypes = {{{"F32", DType::kF32},
                                                                         {"F16", DType::kF16},
                                                                         {"BF16", DType::kBF16},
                                                                         {"I8", DType::kI8},
                                                                         {"U8", DType::kU8},
                                                                         {"I16", DType::kI16},
                                                                         {"I32", DType::kI32},
                                                                         {"I64", DType::kI64},
                                                                         {"F64", DType::kF64},
                                                                         {"BOOL", DType::kBool}}};

std::optional<DType> DTypeOf(std::string_view name) {
  for (const auto& [known, dtype] : kDTypes) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

std::string_view NameOf(DType dtype) {
  for (const auto& [name, known] : kDTypes) {
    if (known == dtype) return name;
  }
  return "F32";
}

struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string_view tensor;
};

Result<std::pair<std::uint64_t, std::uint64_t>> Offsets(const json::object& entry, std::uint64_t data_bytes) {
  const json::value* value = entry.if_contains("data_offsets");
  if (value == nullptr || !value->is_array() || value->get_array().size() != 2)
    return Fail(ErrorCode::kCorrupt, "no data_offsets");
  std::array<std::uint64_t, 2> offsets{};
  for (std::size_t i = 0; i < 2; ++i) {
    const json::value& offset = value->get_array()[i];
    if (!offset.is_int64() || offset.get_int64() < 0)
      return Fail(ErrorCode::kCorrupt, "data_offsets must be non-negative integers");
    offsets[i] = static_cast<std::uint64_t>(offset.get_int64());
  }
  if (offsets[0] > offsets[1])
    return Fail(ErrorCode::kCorrupt, "data_offsets [{}, {}] run backwards", offsets[0], offsets[1]);
  if (offsets[1] > data_bytes) {
    return Fail(ErrorCode::kCorrupt,
                "data ends at {}, past the {} bytes the file holds (truncated download?)", offsets[1],
                data_bytes);
  }
  return std::pair{offsets[0], offsets[1]};
}

Result<Shape> ShapeOf(const json::object& entry) {
  const json::value* value = entry.if_contains("shape");
  if (value == nullptr || !value->is_array() || value->get_array().size() > kMaxDimensions)
    return Fail(ErrorCode::kCorrupt, "no usable shape");
  Shape shape;
  for (const json::value& dim : value->get_array()) {
    if (!dim.is_int64()) return Fail(ErrorCode::kCorrupt, "shape must hold integers");
    shape.push_back(dim.get_int64());
  }
  return shape;
}

Result<TensorView> ParseEntry(const json::value& value, std::span<const std::byte> data) {
  if (!value.is_object()) return Fail(ErrorCode::kCorrupt, "its header entry is not an object");
  const json::object& entry = value.get_object();
  ASSIGN_OR_RETURN(const auto dtype_name, GetString(entry, "dtype"));
  const auto dtype = DTypeOf(dtype_name.value_or(""));
  if (!dtype) return Fail(ErrorCode::kUnsupported, "dtype \"{}\" is not known", dtype_name.value_or(""));
  ASSIGN_OR_RETURN(Shape shape, ShapeOf(entry));
  ASSIGN_OR_RETURN(const std::uint64_t count, CheckedElementCount(shape));
  ASSIGN_OR_RETURN(const auto range, Offsets(entry, data.size()));
  const std::uint64_t bytes = range.second - range.first;
  if (bytes != count * SizeOf(*dtype)) {
    return Fail(ErrorCode::kCorrupt, "{} bytes for {} {}, expected {}", bytes, ShapeString(shape),
                DTypeName(*dtype), count * SizeOf(*dtype));
  }
  return TensorView{*dtype, std::move(shape), data.subspan(range.first, bytes)};
}

// The format allows neither overlaps nor gaps: the tensors tile the data exactly.
Status CheckTiling(std::vector<Range> ranges, std::uint64_t data_bytes) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  for (const Range& range : ranges) {
    if (range.begin < at)
      return Fail(ErrorCode::kCorrupt, "tensor \"{}\": overlaps another one at byte {}", range.tensor,
                  range.begin);
    if (range.begin > at)
      return Fail(ErrorCode::kCorrupt, "tensor \"{}\": a gap of {} bytes before it", range.tensor,
                  range.begin - at);
    at = range.end;
  }
  if (at != data_bytes) return Fail(ErrorCode::kCorrupt, "{} bytes after the last tensor", data_bytes - at);
  return {};
}

Result<TensorMap> ParseBytes(std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes)
    return Fail(ErrorCode::kCorrupt, "{} bytes are too few for a safetensors file", bytes.size());
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes)
    return Fail(ErrorCode::kCorrupt, "a header of {} bytes, the limit is {}", header_bytes, kMaxHeaderBytes);
  if (header_bytes > bytes.size() - kLengthBytes) {
    return Fail(ErrorCode::kCorrupt, "the header should take {} bytes, the file has {} (truncated download?)",
                header_bytes, bytes.size() - kLengthBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes);
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(text, "header"));
  if (!parsed.is_object()) return Fail(ErrorCode::kCorrupt, "the header is not a JSON object");
  const json::object& header = parsed.get_object();
  if (header.size() > kMaxTensorsPerFile)
    return Fail(ErrorCode::kCorrupt, "{} tensors, the limit is {}", header.size(), kMaxTensorsPerFile);
  const auto data = bytes.subspan(kLengthBytes + header_bytes);
  TensorMap tensors;
  std::vector<Range> ranges;
  for (const auto& [name, entry] : header) {
    if (name == "__metadata__") continue;
    auto view = ParseEntry(entry, data);
    if (!view)
      return WithContext(std::move(view).error(), fmt::format("tensor \"{}\"", std::string_view(name)));
    const auto begin = static_cast<std::uint64_t>(view->bytes.data() - data.data());
    ranges.push_back({begin, begin + view->bytes.size(), name});
    tensors.emplace(name, *std::move(view));
  }
  RETURN_IF_ERROR(CheckTiling(std::move(ranges), data.size()));
  return tensors;
}

}  // namespace

Result<TensorMap> ParseSafetensors(const ByteSource& source) {
  const auto mapped = source.mapped();
  if (!mapped) return Fail(ErrorCode::kInternal, "{}: not in memory", source.name());
  auto tensors = ParseBytes(*mapped);
  if (tensors) return tensors;
  Error error = std::move(tensors).error();
  if (error.code == ErrorCode::kInvalidArgument)
    error.code = ErrorCode::kCorrupt;  // JSON errors: the file is at fault, not the caller
  return WithContext(std::move(error), source.name());
}

std::string SafetensorsHeader(std::span<const std::pair<std::string, TensorView>> tensors,
                              std::uint64_t alignment, const std::map<std::string, std::string>& metadata) {
  json::object header;
  if (!metadata.empty()) {
    json::object& entries = header["__metadata__"].emplace_object();
    for (const auto& [key, value] : metadata) entries[key] = value;
  }
  std::uint64_t offset = 0;
  for (const auto& [name, view] : tensors) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(ElementCount(view.shape)) * SizeOf(view.dtype);
    header[name] = {{"dtype", NameOf(view.dtype)},
                    {"shape", json::array(view.shape.begin(), view.shape.end())},
                    {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  const std::string text = json::serialize(header);
  const std::uint64_t length =
      (kLengthBytes + text.size() + alignment - 1) / alignment * alignment - kLengthBytes;
  std::string file(kLengthBytes, '\0');
  std::memcpy(file.data(), &length, kLengthBytes);
  file += text;
  file.resize(kLengthBytes + length, ' ');
  return file;
}

Status WriteSafetensors(const std::filesystem::path& path,
                        std::span<const std::pair<std::string, TensorView>> tensors,
                        const std::map<std::string, std::string>& metadata) {
  const auto temporary = path.string() + ".partial";
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << SafetensorsHeader(tensors, kLengthBytes, metadata);
    for (const auto& [name, view] : tensors) {
      file.write(reinterpret_cast<const char*>(view.bytes.data()),
                 static_cast<std::streamsize>(view.bytes.size()));
    }
    file.flush();
    if (!file) return Fail(ErrorCode::kIo, "{}: cannot write (disk full?)", temporary);
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  return {};
}

}  // namespace bloomery
