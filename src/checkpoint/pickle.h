// A reader of pickles that EXECUTES NOTHING: a small stack machine over an allow-list of opcodes, in which
// the only "calls" are the few functions that torch uses to describe a tensor, and these only ever build a
// description. Every other global, and every opcode that could reach one, is refused by name. Opcodes:
// Python's Lib/pickletools.py (protocols 0 to 5). Left out: where the tensors' bytes are (torch_file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "tensor/tensor_view.h"

namespace bloomery {

// A tensor as the pickle describes it: a strided window into a named storage.
struct PickledTensor {
  DType dtype = DType::kF32;
  std::string storage_key;  // entry "data/<key>" of the archive
  std::uint64_t storage_elements = 0;
  std::int64_t offset = 0;  // elements
  Shape shape;
  Shape strides;
};

// A pickled value. Dictionaries keep their order and hold (key, value) pairs; values refer to each other by
// index into one arena, so that hostile nesting can overflow no stack.
struct PickleNode {
  struct None {};
  struct Global {
    std::string name;  // "torch.FloatStorage"
  };
  struct Sequence {  // tuple or list
    std::vector<std::uint32_t> items;
  };
  struct Dict {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> items;
  };
  struct Storage {
    DType dtype = DType::kF32;
    std::string key;
    std::uint64_t elements = 0;
  };
  std::variant<None, bool, std::int64_t, double, std::string, Global, Sequence, Dict, Storage, PickledTensor>
      value;
};

struct Pickle {
  std::vector<PickleNode> nodes;
  std::uint32_t root = 0;

  const PickleNode& at(std::uint32_t index) const { return nodes[index]; }
};

// kCorrupt for what is no pickle, kUnsupported (naming opcode or global) for what is not allowed.
Result<Pickle> ReadPickle(std::span<const std::byte> bytes);

}  // namespace bloomery
