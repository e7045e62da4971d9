// Vectors of computing type read from and written to memory of any element type (scalar_types.h).
#pragma once

#include <type_traits>

#include "scalar_types.h"
#include "vec.h"

namespace dcn::DCN_ISA {

template <class S>
using Wide = typename Compute<S>::type;

typedef uint16_t HalfBits __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));

// As widen(S) of the bits of every lane.
template <class S>
static inline Vec<float> widen_bits(HalfBits half) {
    const auto bits = __builtin_convertvector(half, Vec<uint32_t>);
    if constexpr (std::is_same_v<S, BFloat>) {
        return (Vec<float>)(bits << 16);
    } else {
        const Vec<uint32_t> sign = (bits & 0x8000u) << 16, rest = (bits & 0x7fffu) << 13;
        const Vec<float> scaled = (Vec<float>)rest * float_of_bits(0x77800000u);
        const Vec<uint32_t> special = (Vec<uint32_t>)(rest >= 0x0f800000u) & 0x7f800000u;
        return (Vec<float>)((Vec<uint32_t>)scaled | special | sign);
    }
}

template <class S>
static inline Vec<Wide<S>> load_wide(const S* from) {
    if constexpr (sizeof(S) == sizeof(Wide<S>)) {
        return load(from);
    } else {
        return widen_bits<S>(*reinterpret_cast<const HalfBits*>(from));
    }
}

// The first `count` lanes, zeros behind them.
template <class S>
static inline Vec<Wide<S>> load_wide_part(const S* from, int count) {
    if constexpr (sizeof(S) == sizeof(Wide<S>)) {
        return load_part(from, count);
    } else {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
        return widen_bits<S>((HalfBits)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from));
#endif
        Vec<float> value{};
        for (int i = 0; i < count; ++i) value[i] = widen(from[i]);
        return value;
    }
}

template <class S>
static inline void store_narrow(S* to, Vec<Wide<S>> value, int count) {
    if constexpr (sizeof(S) == sizeof(Wide<S>)) {
        if (count == lanes<S>) {
            store(to, value);
        } else {
            store_part(to, value, count);
        }
    } else {
        float kept[lanes<float>];
        store(kept, value);
        for (int i = 0; i < count; ++i) narrow(kept[i], to[i]);
    }
}

}  // namespace dcn::DCN_ISA
