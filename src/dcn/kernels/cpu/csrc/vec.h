// Vectors of the instruction set a *.isa.cpp file is compiled for, written with the vector extension of GCC and Clang.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef DCN_ISA
#error "vec.h is for *.isa.cpp files only"
#endif

namespace dcn::DCN_ISA {

#if defined(__AVX512F__)
constexpr bool masked_memory = true;  // load_part and store_part are one instruction
#else
constexpr bool masked_memory = false;
#endif

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int vector_registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16;
constexpr int vector_registers = 32;
#else
constexpr int vector_bytes = 16;
constexpr int vector_registers = 16;
#endif

template <class T, int bytes = vector_bytes>
struct VecOf {
    typedef T type __attribute__((vector_size(bytes)));
    typedef T loose __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));
};

template <class T>
using Vec = typename VecOf<T>::type;

template <class T>
constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

template <class T>
static inline Vec<T> load(const T* from) {
    return *reinterpret_cast<const typename VecOf<T>::loose*>(from);
}

template <class T>
static inline void store(T* to, Vec<T> value) {
    *reinterpret_cast<typename VecOf<T>::loose*>(to) = value;
}

template <class T>
static inline Vec<T> splat(T value) {
    return value - Vec<T>{};
}

// The first `count` lanes; the others are not touched in memory.
template <class T>
static inline Vec<T> load_part(const T* from, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
    if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from);
#endif
    Vec<T> value{};
    for (int i = 0; i < count; ++i) value[i] = from[i];
    return value;
}

template <class T>
static inline void store_part(T* to, Vec<T> value, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
        return _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)value);
    }
    if constexpr (sizeof(T) == 8) {
        return _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), (__m512d)value);
    }
#endif
    for (int i = 0; i < count; ++i) to[i] = value[i];
}

#if defined(__clang__) || __GNUC__ >= 12
// Exchanges the off-diagonal halves of two rows at distance S: one step of the log2(lanes) steps of a transposition.
template <int S, class T, int... L>
static inline void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    const Vec<T> low = __builtin_shufflevector(a, b, ((L & S) ? n + L - S : L)...);
    const Vec<T> high = __builtin_shufflevector(a, b, ((L & S) ? n + L : L + S)...);
    a = low;
    b = high;
}

template <class T, int S>
static inline void transpose_steps(Vec<T>* rows) {
    if constexpr (S < lanes<T>) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes<T>; ++i) {
            if (!(i & S)) exchange<S, T>(rows[i], rows[i + S], std::make_integer_sequence<int, lanes<T>>{});
        }
        transpose_steps<T, 2 * S>(rows);
    }
}

// Transposes a square of lanes x lanes elements held in registers.
template <class T>
static inline void transpose(Vec<T>* rows) {
    transpose_steps<T, 1>(rows);
}
#else
template <class T>
static inline void transpose(Vec<T>* rows) {
    for (int i = 0; i < lanes<T>; ++i) {
        for (int j = 0; j < i; ++j) {
            const T kept = rows[i][j];
            rows[i][j] = rows[j][i];
            rows[j][i] = kept;
        }
    }
}
#endif

}  // namespace dcn::DCN_ISA
