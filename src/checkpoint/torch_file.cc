#include "checkpoint/torch_file.h"

#include <array>
#include <optional>

#include "checkpoint/pickle.h"
#include "checkpoint/zip.h"

namespace bloomery {
namespace {

constexpr std::string_view kResave =
    "re-save it with torch ≥ 1.6: torch.save(torch.load(path), path), or as safetensors";

std::string_view Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Forms that torch once wrote and that are no zip archives.
Status RefuseOldForms(std::span<const std::byte> bytes) {
  // Pickle protocol 2 of the integer 0x1950a86a20f9469cfc6c (torch.serialization.MAGIC_NUMBER).
  static constexpr std::string_view kLegacyMagic =
      "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";
  static constexpr std::size_t kTarMagicOffset = 257;
  if (Text(bytes).starts_with(kLegacyMagic))
    return Fail(ErrorCode::kUnsupported, "torch's legacy (non-zip) form; {}", kResave);
  if (bytes.size() > kTarMagicOffset + 5 && Text(bytes).substr(kTarMagicOffset, 5) == "ustar") {
    return Fail(ErrorCode::kUnsupported, "torch's old tar form; {}", kResave);
  }
  return {};
}

// The archive's one top folder, "archive/" or the file's stem.
Result<std::string> RootOf(const ZipEntries& entries) {
  static constexpr std::string_view kPickle = "data.pkl";
  for (const auto& [name, bytes] : entries) {
    if (name == kPickle || name.ends_with("/data.pkl")) return name.substr(0, name.size() - kPickle.size());
  }
  return Fail(ErrorCode::kUnsupported, "a zip archive without data.pkl: not written by torch.save");
}

Status CheckByteOrder(const ZipEntries& entries, const std::string& root) {
  const auto order = entries.find(root + "byteorder");
  if (order == entries.end() || Text(order->second) == "little") return {};
  return Fail(ErrorCode::kUnsupported, "byte order \"{}\"; only little-endian files can be mapped",
              Text(order->second));
}

bool IsContiguous(const PickledTensor& tensor) {
  std::int64_t expected = 1;
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

Result<TensorView> ViewOf(const PickledTensor& tensor, const ZipEntries& entries, const std::string& root) {
  ASSIGN_OR_RETURN(const std::uint64_t count, CheckedElementCount(tensor.shape));
  if (tensor.strides.size() != tensor.shape.size())
    return Fail(ErrorCode::kCorrupt, "{} strides for {}", tensor.strides.size(), ShapeString(tensor.shape));
  if (!IsContiguous(tensor)) {
    return Fail(ErrorCode::kUnsupported,
                "strides {} of shape {} are not row-major; save it after .contiguous()",
                ShapeString(tensor.strides), ShapeString(tensor.shape));
  }
  const auto storage = entries.find(root + "data/" + tensor.storage_key);
  if (storage == entries.end())
    return Fail(ErrorCode::kCorrupt, "its storage \"{}\" is not in the archive", tensor.storage_key);
  const std::size_t element = SizeOf(tensor.dtype);
  const std::uint64_t held = storage->second.size() / element;
  const auto offset = static_cast<std::uint64_t>(tensor.offset);
  if (count > 0 && (offset > held || count > held - offset)) {
    return Fail(ErrorCode::kCorrupt, "needs elements {} to {} of storage \"{}\", which has {}", offset,
                offset + count, tensor.storage_key, held);
  }
  const auto bytes =
      count == 0 ? std::span<const std::byte>() : storage->second.subspan(offset * element, count * element);
  return TensorView{tensor.dtype, tensor.shape, bytes};
}

bool HoldsTensors(const Pickle& pickle, const PickleNode::Dict& dict) {
  for (const auto& [key, value] : dict.items) {
    if (std::holds_alternative<PickledTensor>(pickle.at(value).value)) return true;
  }
  return false;
}

// The state_dict: the root itself, or the first of the usual wrappers that holds tensors.
Result<const PickleNode::Dict*> StateDict(const Pickle& pickle) {
  const auto* root = std::get_if<PickleNode::Dict>(&pickle.at(pickle.root).value);
  if (root == nullptr) return Fail(ErrorCode::kUnsupported, "holds no state_dict");
  if (HoldsTensors(pickle, *root) || root->items.empty()) return root;
  for (const std::string_view wrapper : {"state_dict", "model", "module"}) {
    for (const auto& [key, value] : root->items) {
      const auto* name = std::get_if<std::string>(&pickle.at(key).value);
      const auto* inner = std::get_if<PickleNode::Dict>(&pickle.at(value).value);
      if (name != nullptr && *name == wrapper && inner != nullptr && HoldsTensors(pickle, *inner))
        return inner;
    }
  }
  return Fail(ErrorCode::kUnsupported, "holds no tensors by name");
}

Result<TensorMap> Parse(std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(RefuseOldForms(bytes));
  ASSIGN_OR_RETURN(const ZipEntries entries, ReadZipDirectory(bytes));
  ASSIGN_OR_RETURN(const std::string root, RootOf(entries));
  RETURN_IF_ERROR(CheckByteOrder(entries, root));
  ASSIGN_OR_RETURN(const Pickle pickle, ReadPickle(entries.find(root + "data.pkl")->second));
  ASSIGN_OR_RETURN(const PickleNode::Dict* dict, StateDict(pickle));
  TensorMap tensors;
  for (const auto& [key, value] : dict->items) {
    const auto* name = std::get_if<std::string>(&pickle.at(key).value);
    const auto* tensor = std::get_if<PickledTensor>(&pickle.at(value).value);
    if (name == nullptr || tensor == nullptr) continue;  // epoch counters and the like
    auto view = ViewOf(*tensor, entries, root);
    if (!view) return WithContext(std::move(view).error(), fmt::format("tensor \"{}\"", *name));
    if (tensors.size() >= kMaxTensorsPerFile)
      return Fail(ErrorCode::kCorrupt, "more than {} tensors", kMaxTensorsPerFile);
    if (!tensors.emplace(*name, *std::move(view)).second)
      return Fail(ErrorCode::kCorrupt, "tensor \"{}\" is there twice", *name);
  }
  return tensors;
}

}  // namespace

Result<TensorMap> ParseTorchFile(const ByteSource& source) {
  const auto mapped = source.mapped();
  if (!mapped) return Fail(ErrorCode::kInternal, "{}: not in memory", source.name());
  auto tensors = Parse(*mapped);
  if (!tensors) return WithContext(std::move(tensors).error(), source.name());
  return tensors;
}

}  // namespace bloomery
