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

struct Archive {
  ZipEntries entries;
  std::string root;
  Pickle pickle;

  Result<TensorView> View(const std::string& name, const PickledTensor& tensor) const {
    auto view = ViewOf(tensor, entries, root);
    if (!view) return WithContext(std::move(view).error(), fmt::format("tensor \"{}\"", name));
    return view;
  }
};

Result<Archive> Open(std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(RefuseOldForms(bytes));
  Archive archive;
  ASSIGN_OR_RETURN(archive.entries, ReadZipDirectory(bytes));
  ASSIGN_OR_RETURN(archive.root, RootOf(archive.entries));
  RETURN_IF_ERROR(CheckByteOrder(archive.entries, archive.root));
  ASSIGN_OR_RETURN(archive.pickle, ReadPickle(archive.entries.find(archive.root + "data.pkl")->second));
  return archive;
}

template <typename Map, typename Value>
Status Add(Map& map, const std::string& name, Value value) {
  if (map.size() >= kMaxTensorsPerFile)
    return Fail(ErrorCode::kCorrupt, "more than {} tensors", kMaxTensorsPerFile);
  if (!map.emplace(name, std::move(value)).second)
    return Fail(ErrorCode::kCorrupt, "tensor \"{}\" is there twice", name);
  return {};
}

Result<TensorMap> Parse(std::span<const std::byte> bytes) {
  ASSIGN_OR_RETURN(const Archive archive, Open(bytes));
  const Pickle& pickle = archive.pickle;
  ASSIGN_OR_RETURN(const PickleNode::Dict* dict, StateDict(pickle));
  TensorMap tensors;
  for (const auto& [key, value] : dict->items) {
    const auto* name = std::get_if<std::string>(&pickle.at(key).value);
    const auto* tensor = std::get_if<PickledTensor>(&pickle.at(value).value);
    if (name == nullptr || tensor == nullptr) continue;  // epoch counters and the like
    ASSIGN_OR_RETURN(TensorView view, archive.View(*name, *tensor));
    RETURN_IF_ERROR(Add(tensors, *name, std::move(view)));
  }
  return tensors;
}

Result<ScaledTensorMap> ParseScaled(std::span<const std::byte> bytes) {
  ASSIGN_OR_RETURN(const Archive archive, Open(bytes));
  const Pickle& pickle = archive.pickle;
  const auto* dict = std::get_if<PickleNode::Dict>(&pickle.at(pickle.root).value);
  if (dict == nullptr) return Fail(ErrorCode::kUnsupported, "holds no dictionary of tensors");
  ScaledTensorMap tensors;
  for (const auto& [key, value] : dict->items) {
    const auto* name = std::get_if<std::string>(&pickle.at(key).value);
    if (name == nullptr) return Fail(ErrorCode::kUnsupported, "holds a key that is no name");
    const auto* tensor = std::get_if<PickledTensor>(&pickle.at(value).value);
    const auto* pair = std::get_if<PickleNode::Sequence>(&pickle.at(value).value);
    const PickledTensor* scale = nullptr;
    if (pair != nullptr && pair->items.size() == 2) {
      tensor = std::get_if<PickledTensor>(&pickle.at(pair->items[0]).value);
      scale = std::get_if<PickledTensor>(&pickle.at(pair->items[1]).value);
    }
    if (tensor == nullptr || (pair != nullptr && scale == nullptr)) {
      return Fail(ErrorCode::kUnsupported, "\"{}\" is neither a tensor nor a tensor and its scale", *name);
    }
    ScaledTensor scaled;
    ASSIGN_OR_RETURN(scaled.tensor, archive.View(*name, *tensor));
    if (scale != nullptr) {
      ASSIGN_OR_RETURN(scaled.scale, archive.View(*name, *scale));
    }
    RETURN_IF_ERROR(Add(tensors, *name, std::move(scaled)));
  }
  return tensors;
}

template <typename Parser>
auto ParseSource(const ByteSource& source, Parser parser) -> decltype(parser(std::span<const std::byte>())) {
  const auto mapped = source.mapped();
  if (!mapped) return Fail(ErrorCode::kInternal, "{}: not in memory", source.name());
  auto tensors = parser(*mapped);
  if (!tensors) return WithContext(std::move(tensors).error(), source.name());
  return tensors;
}

}  // namespace

Result<TensorMap> ParseTorchFile(const ByteSource& source) { return ParseSource(source, Parse); }

Result<ScaledTensorMap> ParseScaledTorchFile(const ByteSource& source) {
  return ParseSource(source, ParseScaled);
}

}  // namespace bloomery
