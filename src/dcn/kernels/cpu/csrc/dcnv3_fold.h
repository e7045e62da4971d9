// Sums over the lanes of many vectors at once. For *.isa.cpp files only.
#pragma once

#include <utility>

#include "vec_wide.h"

namespace dcn::DCN_ISA {

// Vectors of at most 32 bytes: adding the halves of one of 64 bytes while multiplying saves a quarter of the additions
// and shuffles that sums of 16 channels need.
constexpr int short_bytes = vector_bytes < 32 ? vector_bytes : 32;

template <class T>
using ShortOf = VecOf<T, short_bytes>;

template <class T>
using Short = typename ShortOf<T>::type;

template <class T>
constexpr int short_lanes = short_bytes / static_cast<int>(sizeof(T));

// A vector as short ones.
template <class T>
struct Shorts {
    static constexpr int count = vector_bytes / short_bytes;
    Short<T> part[count];

    explicit Shorts(Vec<T> all) { __builtin_memcpy(part, &all, sizeof all); }

    template <class S>
    explicit Shorts(const S* from) {
        if constexpr (sizeof(S) == sizeof(T)) {
            for (int i = 0; i < count; ++i) {
                part[i] = *reinterpret_cast<const typename ShortOf<T>::loose*>(from + i * short_lanes<T>);
            }
        } else {
            *this = Shorts(load_wide(from));
        }
    }
};

// sum += a * b, lane by lane.
template <class T>
static inline void add_product(Short<T>& sum, const Shorts<T>& a, const Shorts<T>& b) {
    for (int i = 0; i < Shorts<T>::count; ++i) sum += a.part[i] * b.part[i];
}

// Half of the lanes of each: lane L is a[L] + a[L + S] where bit S of L is clear and b[L - S] + b[L] where it is set.
#if defined(__clang__) || __GNUC__ >= 12
template <int S, class T, int... L>
static inline Short<T> fold_lanes(Short<T> a, Short<T> b, std::integer_sequence<int, L...>) {
    constexpr int n = short_lanes<T>;
    const Short<T> kept = __builtin_shufflevector(a, b, ((L & S) ? n + L : L)...);
    const Short<T> moved = __builtin_shufflevector(a, b, ((L & S) ? n + L - S : L + S)...);
    return kept + moved;
}
#else
template <int S, class T, int... L>
static inline Short<T> fold_lanes(Short<T> a, Short<T> b, std::integer_sequence<int, L...>) {
    Short<T> result{};
    ((result[L] = L & S ? b[L & S ? L - S : L] + b[L] : a[L] + a[L & S ? L : L + S]), ...);
    return result;
}
#endif

template <int S, class T>
static inline Short<T> fold(Short<T> a, Short<T> b) {
    return fold_lanes<S, T>(a, b, std::make_integer_sequence<int, short_lanes<T>>{});
}

// Lane L: of tap `tap + L / 4` and corner L % 4, summed over the lanes whose bits from S on agree with those of L.
template <int S, class T, class F>
static inline Short<T> fold_taps(int64_t tap, F&& products) {
    if constexpr (S == 4) {
        Short<T> p[4];
        products(tap, p);
        return fold<2, T>(fold<1, T>(p[0], p[1]), fold<1, T>(p[2], p[3]));
    } else {
        const Short<T> low = fold_taps<S / 2, T>(tap, products);
        return fold<S / 2, T>(low, fold_taps<S / 2, T>(tap + S / 8, products));
    }
}

// dot[tap][corner] = sum of the lanes of what products(tap, vectors) fills in for each corner, for the taps [tap, end)
// and perhaps one more.
template <class T, class F>
static inline void fold_all(int64_t tap, int64_t end, T* dot, F&& products) {
    constexpr int n = short_lanes<T>;
    const auto put = [](T* to, Short<T> value) { *reinterpret_cast<typename ShortOf<T>::loose*>(to) = value; };
    if constexpr (n >= 4) {
        for (; tap < end; tap += n / 4) put(dot + 4 * tap, fold_taps<n, T>(tap, products));
    } else {
        for (; tap < end; ++tap) {
            Short<T> p[4];
            products(tap, p);
            put(dot + 4 * tap, fold<1, T>(p[0], p[1]));
            put(dot + 4 * tap + 2, fold<1, T>(p[2], p[3]));
        }
    }
}

}  // namespace dcn::DCN_ISA
