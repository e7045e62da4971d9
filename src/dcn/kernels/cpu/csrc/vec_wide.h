// Vectors of computing type read from and written to memory of any element type (scalar_types.h).
#pragma once

#include <type_traits>

#include "scalar_types.h"
#include "vec.h"

namespace dcn::DCN_ISA {

template <class S>
using Wide = typename Compute<S>::type;

typedef uint16_t HalfBits __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));

// As widen() of the bits of every lane.
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

// As narrow() of every lane, in the low half of 32 bits. Vector by vector: lane by lane through memory, as the compiler does
// it by itself, bfloat16 convolutions of 256 channels were 12 % slower than float32.
template <class S>
static inline Vec<uint32_t> narrow_bits(Vec<float> value) {
    const Vec<uint32_t> bits = (Vec<uint32_t>)value, size = bits & 0x7fffffffu;
    if constexpr (std::is_same_v<S, BFloat>) {
        const Vec<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        const Vec<uint32_t> quiet = Vec<uint32_t>{} + 0x7fc0u;
        return size > 0x7f800000u ? quiet : rounded;
    } else {
        const Vec<uint32_t> small = (Vec<uint32_t>)((Vec<float>)size + 0.5f) - 0x3f000000u;
        const Vec<uint32_t> normal = (size - 0x38000000u + 0x0fffu + ((size >> 13) & 1u)) >> 13;
        const Vec<uint32_t> nan = Vec<uint32_t>{} + 0x7e00u, infinite = Vec<uint32_t>{} + 0x7c00u;
        const Vec<uint32_t> finite = size < 0x38800000u ? small : normal;
        const Vec<uint32_t> large = size > 0x7f800000u ? nan : infinite;
        return (bits >> 16 & 0x8000u) | (size >= 0x477ff000u ? large : finite);
    }
}

template <class S>
static inline void store_narrow(S* to, Vec<Wide<S>> value) {
    if constexpr (sizeof(S) == sizeof(Wide<S>)) {
        store(to, value);
    } else {
        *reinterpret_cast<HalfBits*>(to) = __builtin_convertvector(narrow_bits<S>(value), HalfBits);
    }
}

// The first `count` lanes.
template <class S>
static inline void store_narrow_part(S* to, Vec<Wide<S>> value, int count) {
    if constexpr (sizeof(S) == sizeof(Wide<S>)) {
        store_part(to, value, count);
    } else {
        const auto bits = __builtin_convertvector(narrow_bits<S>(value), HalfBits);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
        return _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1), (__m256i)bits);
#endif
        for (int i = 0; i < count; ++i) to[i].bits = bits[i];
    }
}

}  // namespace dcn::DCN_ISA
