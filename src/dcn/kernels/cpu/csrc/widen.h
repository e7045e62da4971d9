// Rows of any element type read as vectors of the type they are computed in. For *.isa.cpp files only.
#pragma once

#include <type_traits>

#include "scalar_types.h"
#include "vec.h"

namespace dcn::DCN_ISA {

typedef uint16_t Narrow __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
typedef uint32_t Wide __attribute__((vector_size(vector_bytes)));

// `lanes<T>` elements from `from` on.
template <class T, class S>
static inline Vec<T> load_as(const S* from) {
    if constexpr (std::is_same_v<S, T>) {
        return load(from);
    } else {
        const Wide bits = __builtin_convertvector(*reinterpret_cast<const Narrow*>(from), Wide);
        if constexpr (std::is_same_v<S, BFloat>) {
            return (Vec<float>)(bits << 16);
        } else {  // as widen(Half)
            const Wide rest = (bits & 0x7fffu) << 13;
            const Vec<float> scaled = (Vec<float>)rest * splat(float_of_bits(0x77800000u));
            const Wide special = (Wide)(rest >= 0x0f800000u) & 0x7f800000u;
            return (Vec<float>)((Wide)scaled | special | (bits & 0x8000u) << 16);
        }
    }
}

// The first `count` of them, 0 in the other lanes.
template <class T, class S>
static inline Vec<T> load_part_as(const S* from, int count) {
    if constexpr (std::is_same_v<S, T>) {
        return load_part(from, count);
    } else {
        Vec<T> value{};
        for (int i = 0; i < count; ++i) value[i] = widen(from[i]);
        return value;
    }
}

}  // namespace dcn::DCN_ISA
