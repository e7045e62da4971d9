// Channels taken in runs of whole vectors and a rest. For *.isa.cpp files only.
#pragma once

#include <cstdint>
#include <type_traits>

#include "vec_wide.h"

namespace dcn::DCN_ISA {

// body(number of whole vectors, first channel, 0) for runs of 4, 2 and 1 vectors, then body(0, first channel, rest).
template <class T, class F>
static inline void each_run(int64_t channels, F&& body) {
    constexpr int n = lanes<T>;
    int64_t c = 0;
    for (; c + 4 * n <= channels; c += 4 * n) body(std::integral_constant<int, 4>{}, c, 0);
    for (; c + 2 * n <= channels; c += 2 * n) body(std::integral_constant<int, 2>{}, c, 0);
    for (; c + n <= channels; c += n) body(std::integral_constant<int, 1>{}, c, 0);
    const int part = static_cast<int>(channels - c);
    if (part) body(std::integral_constant<int, 0>{}, c, part);
}

// A run of `V` whole vectors or, where V is 0, of the first `part` lanes of one.
template <int V, class S>
static inline Vec<Wide<S>> read(const S* from, int v, int part) {
    if constexpr (V != 0) {
        return load_wide(from + v * lanes<Wide<S>>);
    } else {
        return load_wide_part(from, part);
    }
}

template <int V, class S>
static inline void write(S* to, int v, Vec<Wide<S>> value, int part) {
    if constexpr (V != 0) {
        store_narrow(to + v * lanes<Wide<S>>, value);
    } else {
        store_narrow_part(to, value, part);
    }
}

}  // namespace dcn::DCN_ISA
