// The tensors of one file by name, and the checks every format shares before a view is handed out.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "tensor/tensor_view.h"

namespace bloomery {

using TensorMap = std::map<std::string, TensorView, std::less<>>;

// Far more than any model has; a hostile header cannot make us build millions of entries.
inline constexpr std::size_t kMaxTensorsPerFile = 200'000;
inline constexpr std::size_t kMaxDimensions = 16;

// Elements of a shape whose dimensions come from a file: kCorrupt for negative ones and for products past
// 2^60.
Result<std::uint64_t> CheckedElementCount(const Shape& shape);

}  // namespace bloomery
