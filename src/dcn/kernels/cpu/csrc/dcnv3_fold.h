// Sums over the lanes of many vectors at once. For *.isa.cpp files only.
#pragma once

#include <utility>

#include "vec.h"

namespace dcn::DCN_ISA {

#if defined(__clang__) || __GNUC__ >= 12
template <int S, class T, int... L>
static inline Vec<T> fold_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, L...>) {
    constexpr int n = lanes<T>;
    // One blend and one shuffle: two shuffles took twice as long, for the processor does one in a cycle.
    const Vec<T> kept = __builtin_shufflevector(a, b, ((L & S) ? n + L : L)...);
    const Vec<T> moved = __builtin_shufflevector(a, b, ((L & S) ? n + L - S : L + S)...);
    return kept + moved;
}
#endif

// Half of the lanes of each: lane L is a[L] + a[L + S] where bit S of L is clear and b[L - S] + b[L] where it is set.
template <int S, class T>
static inline Vec<T> fold(Vec<T> a, Vec<T> b) {
#if defined(__clang__) || __GNUC__ >= 12
    return fold_lanes<S, T>(a, b, std::make_integer_sequence<int, lanes<T>>{});
#else
    Vec<T> result{};
    for (int lane = 0; lane < lanes<T>; ++lane) {
        result[lane] = lane & S ? b[lane - S] + b[lane] : a[lane] + a[lane + S];
    }
    return result;
#endif
}

// Lane L: the sum of vector (tap + L / 4, corner L % 4), summed over the lanes whose bits from S on agree with those of
// L. products(tap, vectors) fills the vectors of the four corners of a tap.
template <int S, class T, class F>
static inline Vec<T> fold_taps(int64_t tap, F&& products) {
    if constexpr (S == 4) {
        Vec<T> p[4];
        products(tap, p);
        return fold<2, T>(fold<1, T>(p[0], p[1]), fold<1, T>(p[2], p[3]));
    } else {
        const Vec<T> low = fold_taps<S / 2, T>(tap, products);
        return fold<S / 2, T>(low, fold_taps<S / 2, T>(tap + S / 8, products));
    }
}

// dot[tap][corner] = sum of the lanes of what products(tap, vectors) fills in, for the taps [tap, end) and up to 3 more.
template <class T, class F>
static inline void fold_all(int64_t tap, int64_t end, T* dot, F&& products) {
    constexpr int n = lanes<T>;
    if constexpr (n >= 4) {
        for (; tap < end; tap += n / 4) store(dot + 4 * tap, fold_taps<n, T>(tap, products));
    } else {
        for (; tap < end; ++tap) {
            Vec<T> p[4];
            products(tap, p);
            store(dot + 4 * tap, fold<1, T>(p[0], p[1]));
            store(dot + 4 * tap + 2, fold<1, T>(p[2], p[3]));
        }
    }
}

}  // namespace dcn::DCN_ISA
