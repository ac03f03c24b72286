// plain header: exp, the activations and sums across lanes, over a vector trait V.
#pragma once

#include "kernels/generic/unroll.h"
#include "kernels/kernel_table.h"

namespace bloomery::generic {

// eˣ within 2 units in the last place for x in [−87.3, 88.7]; 0 below, infinity above.
// x = n·ln2 + r with |r| ≤ ln2/2 (ln2 in two parts, so that r is exact enough), eʳ by its Taylor series to
// degree 7 (next term r⁸/8! < 5.2e-9 relative), scaled by 2ⁿ in the exponent bits.
template <class V>
inline typename V::F Exp(typename V::F x) {
  using F = typename V::F;
  const F low = V::Set1(-87.3F);
  const F high = V::Set1(88.7F);
  const F clamped = V::Min(high, V::Max(low, x));  // in this order NaN stays NaN
  const F n = V::Round(V::Mul(clamped, V::Set1(1.44269504F)));
  F r = V::Fma(n, V::Set1(-0.693359375F), clamped);
  r = V::Fma(n, V::Set1(2.12194440e-4F), r);
  F p = V::Set1(1.0F / 5040.0F);
  p = V::Fma(p, r, V::Set1(1.0F / 720.0F));
  p = V::Fma(p, r, V::Set1(1.0F / 120.0F));
  p = V::Fma(p, r, V::Set1(1.0F / 24.0F));
  p = V::Fma(p, r, V::Set1(1.0F / 6.0F));
  p = V::Fma(p, r, V::Set1(0.5F));
  p = V::Fma(p, r, V::Set1(1.0F));
  p = V::Fma(p, r, V::Set1(1.0F));
  const F value = V::SelectLess(high, x, V::Set1(__builtin_inff()), V::TimesPow2(p, n));
  return V::SelectLess(x, low, V::Zero(), value);
}

// 0.5x(1 + tanh u) = x / (1 + e^(−2u)): no cancellation on either side.
template <class V>
inline typename V::F GeluTanh(typename V::F x) {
  const typename V::F cubic = V::Fma(V::Mul(V::Mul(x, x), x), V::Set1(0.044715F), x);
  const typename V::F e = Exp<V>(V::Mul(cubic, V::Set1(-2.0F * 0.79788456F)));
  return V::Div(x, V::Add(V::Set1(1.0F), e));
}

// Φ(−|x|) = ½ erfc(|x|/√2) by Abramowitz & Stegun 7.1.26 (absolute error 1.5e-7), then x·Φ(x).
template <class V>
inline typename V::F GeluErf(typename V::F x) {
  using F = typename V::F;
  const F z = V::Mul(V::Abs(x), V::Set1(0.70710678F));
  const F t = V::Div(V::Set1(1.0F), V::Fma(z, V::Set1(0.3275911F), V::Set1(1.0F)));
  F poly = V::Set1(1.061405429F);
  poly = V::Fma(poly, t, V::Set1(-1.453152027F));
  poly = V::Fma(poly, t, V::Set1(1.421413741F));
  poly = V::Fma(poly, t, V::Set1(-0.284496736F));
  poly = V::Fma(poly, t, V::Set1(0.254829592F));
  const F tail = V::Mul(V::Mul(V::Mul(poly, t), Exp<V>(V::Mul(V::Mul(z, z), V::Set1(-1.0F)))), V::Set1(0.5F));
  const F small_part = V::Mul(x, tail);
  return V::SelectLess(x, V::Zero(), small_part, V::Sub(x, small_part));
}

// x → −∞ gives x/∞ = −0.
template <class V>
inline typename V::F Silu(typename V::F x) {
  return V::Div(x, V::Add(V::Set1(1.0F), Exp<V>(V::Mul(x, V::Set1(-1.0F)))));
}

template <class V>
inline typename V::F Activate(typename V::F x, int activation) {
  switch (activation) {
    case kActRelu:
      // Not Max(x, 0): that would turn NaN into 0 and hide a broken model.
      return V::SelectLess(x, V::Zero(), V::Zero(), x);
    case kActGeluTanh:
      return GeluTanh<V>(x);
    case kActGeluErf:
      return GeluErf<V>(x);
    case kActSilu:
      return Silu<V>(x);
    default:
      return x;
  }
}

}  // namespace bloomery::generic
