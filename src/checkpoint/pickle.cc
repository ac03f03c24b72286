#include "checkpoint/pickle.h"

#include <array>
#include <cstring>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "checkpoint/tensor_map.h"

namespace bloomery {
namespace {

// A 176 B-parameter shard has a few thousand nodes; this bounds what a hostile file can make us allocate.
constexpr std::size_t kMaxNodes = 1'000'000;
constexpr std::size_t kMaxTextBytes = 1U << 20U;

// Opcode bytes, named as in pickletools.
enum Op : unsigned char {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kEmptyDict = '}',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kEmptyList = ']',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kEmptyTuple = ')',
  kSetItems = 'u',
  kBinFloat = 'G',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

// Storage classes by name, and what they hold.
constexpr std::array<std::pair<std::string_view, DType>, 10> kStorages = {
    {{"torch.FloatStorage", DType::kF32},
     {"torch.HalfStorage", DType::kF16},
     {"torch.BFloat16Storage", DType::kBF16},
     {"torch.DoubleStorage", DType::kF64},
     {"torch.LongStorage", DType::kI64},
     {"torch.IntStorage", DType::kI32},
     {"torch.ShortStorage", DType::kI16},
     {"torch.CharStorage", DType::kI8},
     {"torch.ByteStorage", DType::kU8},
     {"torch.BoolStorage", DType::kBool}}};

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
// Of a parameter that was given attributes (DeepSpeed's `scale`); they are left where they are.
constexpr std::string_view kRebuildParameterWithState = "torch._utils._rebuild_parameter_with_state";

std::optional<DType> StorageDType(std::string_view global) {
  for (const auto& [name, dtype] : kStorages) {
    if (name == global) return dtype;
  }
  return std::nullopt;
}

bool AllowedGlobal(std::string_view name) {
  return name == kOrderedDict || name == kRebuildTensor || name == kRebuildParameter ||
         name == kRebuildParameterWithState || StorageDType(name).has_value();
}

class Machine {
 public:
  explicit Machine(std::span<const std::byte> bytes) : bytes_(bytes) {}

  Result<Pickle> Run() {
    for (;;) {
      ASSIGN_OR_RETURN(const auto op, Take<unsigned char>());
      if (op == kStop) break;
      RETURN_IF_ERROR(Execute(op));
      if (pickle_.nodes.size() > kMaxNodes || memo_.size() > kMaxNodes || stack_.size() > kMaxNodes) {
        return Fail(ErrorCode::kCorrupt, "more than {} values", kMaxNodes);
      }
    }
    ASSIGN_OR_RETURN(pickle_.root, Pop());
    return std::move(pickle_);
  }

 private:
  using Index = std::uint32_t;

  Status Execute(unsigned char op) {
    switch (op) {
      case kProto:
        return Protocol();
      case kFrame:
        return Skip(8);
      case kMark:
        marks_.push_back(stack_.size());
        if (marks_.size() > kMaxNodes) return Fail(ErrorCode::kCorrupt, "too many marks");
        return {};
      case kPop:
        return Drop();
      case kPopMark:
        return DropToMark();
      case kDup:
        if (stack_.empty()) return Fail(ErrorCode::kCorrupt, "stack is empty");
        stack_.push_back(stack_.back());
        return {};
      case kNone:
        return Push(PickleNode::None{});
      case kNewTrue:
        return Push(true);
      case kNewFalse:
        return Push(false);
      case kEmptyTuple:
      case kEmptyList:
        return Push(PickleNode::Sequence{});
      case kEmptyDict:
        return Push(PickleNode::Dict{});
      case kBinInt:
        return PushNumber<std::int32_t>();
      case kBinInt1:
        return PushNumber<std::uint8_t>();
      case kBinInt2:
        return PushNumber<std::uint16_t>();
      case kLong1:
        return Long();
      case kBinFloat:
        return Float();
      case kShortBinString:
      case kShortBinUnicode:
        return PushText<std::uint8_t>();
      case kBinString:
      case kBinUnicode:
        return PushText<std::uint32_t>();
      case kBinUnicode8:
        return PushText<std::uint64_t>();
      case kTuple:
        return MarkedTuple();
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return SmallTuple(static_cast<std::size_t>(op - kTuple1) + 1);
      case kAppend:
        return AppendOne();
      case kAppends:
        return AppendMarked();
      case kSetItem:
        return SetOne();
      case kSetItems:
        return SetMarked();
      case kBinPut:
        return Put(Take<std::uint8_t>());
      case kLongBinPut:
        return Put(Take<std::uint32_t>());
      case kMemoize:
        return Put(static_cast<std::uint32_t>(memo_.size()));
      case kBinGet:
        return Get(Take<std::uint8_t>());
      case kLongBinGet:
        return Get(Take<std::uint32_t>());
      case kGlobal:
        return Global();
      case kStackGlobal:
        return StackGlobal();
      case kBinPersId:
        return PersistentId();
      case kReduce:
        return Reduce();
      case kBuild:
        return Build();
      default:
        return Fail(ErrorCode::kUnsupported,
                    "pickle opcode 0x{:02x} at byte {} is not allowed; only plain tensors can be read", op,
                    at_ - 1);
    }
  }

  // --- bytes ---

  template <typename T>
  Result<T> Take() {
    if (bytes_.size() - at_ < sizeof(T))
      return Fail(ErrorCode::kCorrupt, "the pickle ends at byte {} inside a value", at_);
    T value{};
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  Status Skip(std::size_t count) {
    if (bytes_.size() - at_ < count)
      return Fail(ErrorCode::kCorrupt, "the pickle ends at byte {} inside a value", at_);
    at_ += count;
    return {};
  }

  Result<std::string> TakeText(std::uint64_t length) {
    if (length > kMaxTextBytes) return Fail(ErrorCode::kCorrupt, "a text of {} bytes", length);
    if (bytes_.size() - at_ < length)
      return Fail(ErrorCode::kCorrupt, "the pickle ends at byte {} inside a text", at_);
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + at_, length);
    at_ += length;
    return text;
  }

  Result<std::string> TakeLine() {
    std::string line;
    for (;;) {
      ASSIGN_OR_RETURN(const char c, Take<char>());
      if (c == '\n') return line;
      line.push_back(c);
      if (line.size() > kMaxTextBytes) return Fail(ErrorCode::kCorrupt, "an endless line");
    }
  }

  Status Protocol() {
    ASSIGN_OR_RETURN(const auto version, Take<std::uint8_t>());
    if (version > 5) return Fail(ErrorCode::kUnsupported, "pickle protocol {}", version);
    return {};
  }

  template <typename T>
  Status PushNumber() {
    ASSIGN_OR_RETURN(const T number, Take<T>());
    return Push(static_cast<std::int64_t>(number));
  }

  Status Long() {
    ASSIGN_OR_RETURN(const auto length, Take<std::uint8_t>());
    if (length > 8) return Fail(ErrorCode::kUnsupported, "an integer of {} bytes", length);
    std::uint64_t bits = 0;
    unsigned char last = 0;
    for (unsigned i = 0; i < length; ++i) {
      ASSIGN_OR_RETURN(last, Take<unsigned char>());
      bits |= static_cast<std::uint64_t>(last) << (8U * i);
    }
    if ((last & 0x80U) != 0 && length < 8)
      bits |= ~std::uint64_t{0} << (8U * length);  // two's complement, little-endian
    return Push(static_cast<std::int64_t>(bits));
  }

  Status Float() {
    ASSIGN_OR_RETURN(const auto big_endian, Take<std::uint64_t>());
    const std::uint64_t bits = __builtin_bswap64(big_endian);
    double value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    return Push(value);
  }

  template <typename Length>
  Status PushText() {
    ASSIGN_OR_RETURN(const Length length, Take<Length>());
    ASSIGN_OR_RETURN(std::string text, TakeText(length));
    return Push(std::move(text));
  }

  // --- stack and memo ---

  template <typename T>
  Status Push(T value) {
    stack_.push_back(static_cast<Index>(pickle_.nodes.size()));
    pickle_.nodes.push_back({std::move(value)});
    return {};
  }

  Result<Index> Pop() {
    if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back()))
      return Fail(ErrorCode::kCorrupt, "stack is empty");
    const Index top = stack_.back();
    stack_.pop_back();
    return top;
  }

  Result<std::vector<Index>> PopToMark() {
    if (marks_.empty()) return Fail(ErrorCode::kCorrupt, "no mark on the stack");
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Index> items(from, stack_.end());
    stack_.erase(from, stack_.end());
    marks_.pop_back();
    return items;
  }

  Status Drop() {
    RETURN_IF_ERROR(Pop());
    return {};
  }

  Status DropToMark() {
    RETURN_IF_ERROR(PopToMark());
    return {};
  }

  Status MarkedTuple() {
    ASSIGN_OR_RETURN(std::vector<Index> items, PopToMark());
    return Push(PickleNode::Sequence{std::move(items)});
  }

  Status SmallTuple(std::size_t count) {
    PickleNode::Sequence tuple{std::vector<Index>(count)};
    for (std::size_t i = count; i-- > 0;) {
      ASSIGN_OR_RETURN(tuple.items[i], Pop());
    }
    return Push(std::move(tuple));
  }

  template <typename T>
  T* TopAs() {
    return stack_.empty() ? nullptr : std::get_if<T>(&pickle_.nodes[stack_.back()].value);
  }

  template <typename T>
  const T* As(Index index) const {
    return std::get_if<T>(&pickle_.nodes[index].value);
  }

  Status AppendTo(const std::vector<Index>& items) {
    auto* list = TopAs<PickleNode::Sequence>();
    if (list == nullptr) return Fail(ErrorCode::kCorrupt, "append to something that is no list");
    list->items.insert(list->items.end(), items.begin(), items.end());
    return {};
  }

  Status AppendOne() {
    ASSIGN_OR_RETURN(const Index item, Pop());
    return AppendTo({item});
  }

  Status AppendMarked() {
    ASSIGN_OR_RETURN(const std::vector<Index> items, PopToMark());
    return AppendTo(items);
  }

  Status SetMarked() {
    ASSIGN_OR_RETURN(const std::vector<Index> items, PopToMark());
    return SetItems(items);
  }

  Status SetOne() {
    ASSIGN_OR_RETURN(const Index value, Pop());
    ASSIGN_OR_RETURN(const Index key, Pop());
    return SetItems({key, value});
  }

  Status SetItems(const std::vector<Index>& items) {
    auto* dict = TopAs<PickleNode::Dict>();
    if (dict == nullptr || items.size() % 2 != 0)
      return Fail(ErrorCode::kCorrupt, "items set on something that is no dictionary");
    for (std::size_t i = 0; i < items.size(); i += 2) dict->items.emplace_back(items[i], items[i + 1]);
    return {};
  }

  Status Put(Result<std::uint32_t> slot) {
    if (!slot) return std::unexpected(std::move(slot).error());
    if (stack_.empty()) return Fail(ErrorCode::kCorrupt, "nothing to remember");
    memo_[*slot] = stack_.back();
    return {};
  }

  Status Get(Result<std::uint32_t> slot) {
    if (!slot) return std::unexpected(std::move(slot).error());
    const auto found = memo_.find(*slot);
    if (found == memo_.end()) return Fail(ErrorCode::kCorrupt, "nothing remembered as {}", *slot);
    stack_.push_back(found->second);
    return {};
  }

  // --- globals and the few things that look like calls ---

  Status PushGlobal(std::string name) {
    if (!AllowedGlobal(name)) {
      return Fail(ErrorCode::kUnsupported,
                  "it refers to the Python object \"{}\", and this reader runs no code; re-save the file "
                  "with safetensors, or as a plain state_dict",
                  name);
    }
    return Push(PickleNode::Global{std::move(name)});
  }

  Status Global() {
    ASSIGN_OR_RETURN(const std::string module, TakeLine());
    ASSIGN_OR_RETURN(const std::string name, TakeLine());
    return PushGlobal(module + "." + name);
  }

  Status StackGlobal() {
    ASSIGN_OR_RETURN(const Index name, Pop());
    ASSIGN_OR_RETURN(const Index module, Pop());
    const auto* name_text = As<std::string>(name);
    const auto* module_text = As<std::string>(module);
    if (name_text == nullptr || module_text == nullptr)
      return Fail(ErrorCode::kCorrupt, "a global without a name");
    return PushGlobal(*module_text + "." + *name_text);
  }

  // torch writes ('storage', <class>, key, location, elements).
  Status PersistentId() {
    ASSIGN_OR_RETURN(const Index id, Pop());
    const auto* tuple = As<PickleNode::Sequence>(id);
    if (tuple == nullptr || tuple->items.size() != 5)
      return Fail(ErrorCode::kUnsupported, "a persistent id that is no storage");
    const auto* kind = As<std::string>(tuple->items[0]);
    const auto* type = As<PickleNode::Global>(tuple->items[1]);
    const auto* key = As<std::string>(tuple->items[2]);
    const auto* elements = As<std::int64_t>(tuple->items[4]);
    if (kind == nullptr || *kind != "storage" || type == nullptr || key == nullptr || elements == nullptr ||
        *elements < 0) {
      return Fail(ErrorCode::kUnsupported, "a persistent id that is no storage");
    }
    const auto dtype = StorageDType(type->name);
    if (!dtype) return Fail(ErrorCode::kUnsupported, "storage of type \"{}\"", type->name);
    return Push(PickleNode::Storage{*dtype, *key, static_cast<std::uint64_t>(*elements)});
  }

  Status Reduce() {
    ASSIGN_OR_RETURN(const Index arguments, Pop());
    ASSIGN_OR_RETURN(const Index function, Pop());
    const auto* global = As<PickleNode::Global>(function);
    const auto* tuple = As<PickleNode::Sequence>(arguments);
    if (global == nullptr || tuple == nullptr)
      return Fail(ErrorCode::kUnsupported, "a call of something that is no known function");
    if (global->name == kOrderedDict) {
      if (!tuple->items.empty()) return Fail(ErrorCode::kUnsupported, "OrderedDict with arguments");
      return Push(PickleNode::Dict{});
    }
    if ((global->name == kRebuildParameter || global->name == kRebuildParameterWithState) &&
        !tuple->items.empty() && As<PickledTensor>(tuple->items[0]) != nullptr) {
      stack_.push_back(tuple->items[0]);
      return {};
    }
    if (global->name == kRebuildTensor) return RebuildTensor(*tuple);
    return Fail(ErrorCode::kUnsupported, "a call of \"{}\" with unexpected arguments", global->name);
  }

  Result<Shape> Integers(Index index) const {
    const auto* tuple = As<PickleNode::Sequence>(index);
    if (tuple == nullptr || tuple->items.size() > kMaxDimensions)
      return Fail(ErrorCode::kCorrupt, "a tensor's shape or stride is no short tuple");
    Shape shape;
    for (const Index item : tuple->items) {
      const auto* number = As<std::int64_t>(item);
      if (number == nullptr || *number < 0)
        return Fail(ErrorCode::kCorrupt, "a tensor's shape or stride holds no size");
      shape.push_back(*number);
    }
    return shape;
  }

  // (storage, offset, shape, strides, requires_grad, backward_hooks[, metadata])
  Status RebuildTensor(const PickleNode::Sequence& arguments) {
    if (arguments.items.size() < 4)
      return Fail(ErrorCode::kCorrupt, "a tensor with {} of its parts", arguments.items.size());
    const auto* storage = As<PickleNode::Storage>(arguments.items[0]);
    const auto* offset = As<std::int64_t>(arguments.items[1]);
    if (storage == nullptr || offset == nullptr || *offset < 0)
      return Fail(ErrorCode::kCorrupt, "a tensor without a storage");
    ASSIGN_OR_RETURN(Shape shape, Integers(arguments.items[2]));
    ASSIGN_OR_RETURN(Shape strides, Integers(arguments.items[3]));
    return Push(PickledTensor{storage->dtype, storage->key, storage->elements, *offset, std::move(shape),
                              std::move(strides)});
  }

  // State for an object: a dictionary's is its attributes (torch's _metadata), which say nothing about
  // tensors. Anything else would be code.
  Status Build() {
    RETURN_IF_ERROR(Pop());
    if (TopAs<PickleNode::Dict>() == nullptr)
      return Fail(ErrorCode::kUnsupported, "state for an object that is no dictionary");
    return {};
  }

  const std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  Pickle pickle_;
  std::vector<Index> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint32_t, Index> memo_;
};

}  // namespace

Result<Pickle> ReadPickle(std::span<const std::byte> bytes) { return Machine(bytes).Run(); }

}  // namespace bloomery
