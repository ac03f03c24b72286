// Rounding for what is packed in plain C++: the library's own is a call per value on the x86-64 baseline.
#pragma once

namespace bloomery {

// The nearest integer, ties to even, for |v| < 2²²: adding 1.5·2²³ leaves no bits for a fraction.
inline float RoundNear(float v) { return (v + 12582912.0F) - 12582912.0F; }

}  // namespace bloomery
