// Vectors of pairs taken apart and put together again. For *.isa.cpp files only.
#pragma once

#include <utility>

#include "vec.h"

namespace dcn::DCN_ISA {

template <class T>
constexpr auto all_lanes = std::make_integer_sequence<int, lanes<T>>{};

#if defined(__clang__) || __GNUC__ >= 12
template <class T, int... L>
static inline void split_pairs(Vec<T> low, Vec<T> high, Vec<T>& even, Vec<T>& odd, std::integer_sequence<int, L...>) {
    even = __builtin_shufflevector(low, high, (2 * L)...);
    odd = __builtin_shufflevector(low, high, (2 * L + 1)...);
}

template <class T, int... L>
static inline void join_pairs(Vec<T> even, Vec<T> odd, Vec<T>& low, Vec<T>& high, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    low = __builtin_shufflevector(even, odd, (L / 2 + L % 2 * n)...);
    high = __builtin_shufflevector(even, odd, (n / 2 + L / 2 + L % 2 * n)...);
}
#else
template <class T, int... L>
static inline void split_pairs(Vec<T> low, Vec<T> high, Vec<T>& even, Vec<T>& odd, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    ((even[L] = 2 * L < n ? low[2 * L % n] : high[2 * L % n]), ...);
    ((odd[L] = 2 * L + 1 < n ? low[(2 * L + 1) % n] : high[(2 * L + 1) % n]), ...);
}

template <class T, int... L>
static inline void join_pairs(Vec<T> even, Vec<T> odd, Vec<T>& low, Vec<T>& high, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    ((low[L] = L % 2 ? odd[L / 2] : even[L / 2]), ...);
    ((high[L] = L % 2 ? odd[n / 2 + L / 2] : even[n / 2 + L / 2]), ...);
}
#endif

}  // namespace dcn::DCN_ISA
