#include "integers.h"
#include "layout.h"
#include "vec_wide.h"

namespace dcn::DCN_ISA {
namespace {

template <class S, class T>
void gather_strided(const S* from, int64_t channel_step, int64_t pixel_step, int64_t channels, int64_t pixels, T* to,
                    int64_t to_step) {
    for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t c = 0; c < channels; ++c) to[p * to_step + c] = widen(from[c * channel_step + p * pixel_step]);
    }
}

template <class S, class T>
void gather_channels_last(const S* from, int64_t pixel_step, int64_t channels, int64_t pixels, T* to, int64_t to_step) {
    constexpr int n = lanes<T>;
    for (int64_t p = 0; p < pixels; ++p, from += pixel_step, to += to_step) {
        int64_t c = 0;
        for (; c + n <= channels; c += n) store(to + c, load_wide(from + c));
        for (; c < channels; ++c) to[c] = widen(from[c]);
    }
}

// A square of one vector of channels and as many pixels. Not part of the loops around it, where the compiler kept the
// addresses of 16 rows in memory; that took longer than the transposition.
template <class S, class T>
__attribute__((noinline)) void gather_square(const S* from, int64_t channel_step, T* to, int64_t to_step) {
    constexpr int n = lanes<T>;
    Vec<T> rows[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = load_wide(from + i * channel_step);
    transpose<T>(rows);
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) store(to + i * to_step, rows[i]);
}

template <class S, class T>
__attribute__((noinline)) void gather_part(const S* from, int64_t channel_step, int count, T* to, int64_t to_step) {
    constexpr int n = lanes<T>;
    Vec<T> rows[n];
    for (int i = 0; i < n; ++i) rows[i] = load_wide_part(from + i * channel_step, count);
    transpose<T>(rows);
    for (int i = 0; i < count; ++i) store(to + i * to_step, rows[i]);
}

template <class S, class T>
void gather(const S* from, int64_t channel_step, int64_t pixel_step, int64_t channels, int64_t pixels, T* to,
            int64_t to_step) {
    constexpr int n = lanes<T>;
    constexpr int64_t ahead = 256 / sizeof(S);  // pixels fetched ahead, of 16 or fewer channels at a time
    if (channel_step == 1) return gather_channels_last(from, pixel_step, channels, pixels, to, to_step);
    if (pixel_step != 1) return gather_strided(from, channel_step, pixel_step, channels, pixels, to, to_step);
    const int64_t whole = channels - channels % n;
    for (int64_t c = 0; c < whole; c += n) {
        const S* row = from + c * channel_step;
        for (int64_t p = 0; p < pixels; p += n) {
            // The lines to come; at the end of the run those of the next channels.
            const bool same = p + ahead < pixels;
            if (same || c + n < whole) {
                const S* next = same ? row + p + ahead : row + n * channel_step + (p + ahead - pixels) % pixels;
                for (int i = 0; i < n; ++i) __builtin_prefetch(next + i * channel_step);
            }
            if (pixels - p >= n) {
                gather_square<S, T>(row + p, channel_step, to + p * to_step + c, to_step);
            } else {
                gather_part<S, T>(row + p, channel_step, static_cast<int>(pixels - p), to + p * to_step + c, to_step);
            }
        }
    }
    gather_strided(from + whole * channel_step, channel_step, 1, channels - whole, pixels, to + whole, to_step);
}

// A square as above of pairs of channels: 2 * 16 channels of 16 pixels where vectors have 16 lanes.
template <class S>
__attribute__((noinline)) void gather_pairs(const S* from, int64_t channel_step, uint16_t* to, int64_t to_step) {
    constexpr int n = lanes<uint32_t>;
    Vec<uint32_t> rows[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
        const auto* pair = reinterpret_cast<const uint16_t*>(from + 2 * i * channel_step);
        const HalfBits first = *reinterpret_cast<const HalfBits*>(pair);
        const HalfBits second = *reinterpret_cast<const HalfBits*>(pair + channel_step);
        rows[i] = __builtin_convertvector(first, Vec<uint32_t>) | __builtin_convertvector(second, Vec<uint32_t>) << 16;
    }
    transpose<uint32_t>(rows);
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) store(reinterpret_cast<uint32_t*>(to + i * to_step), rows[i]);
}

template <class S>
void gather_bits(const S* from, int64_t channel_step, int64_t pixel_step, int64_t channels, int64_t pixels,
                 uint16_t* to, int64_t to_step) {
    constexpr int n = lanes<uint32_t>;
    constexpr int64_t ahead = 256 / sizeof(S);  // as in `gather`
    if (channel_step == 1) {
        for (int64_t p = 0; p < pixels; ++p) {
            __builtin_memcpy(to + p * to_step, from + p * pixel_step, static_cast<size_t>(channels) * sizeof(S));
        }
        return;
    }
    const int64_t whole = pixel_step == 1 ? channels - channels % (2 * n) : 0;
    const auto plain = [&](int64_t channel, int64_t count, int64_t pixel, int64_t end) {
        for (int64_t p = pixel; p < end; ++p) {
            for (int64_t c = channel; c < channel + count; ++c) {
                to[p * to_step + c] = from[c * channel_step + p * pixel_step].bits;
            }
        }
    };
    for (int64_t c = 0; c < whole; c += 2 * n) {
        const S* row = from + c * channel_step;
        int64_t p = 0;
        for (; p + n <= pixels; p += n) {
            const bool same = p + ahead < pixels;
            if (same || c + 2 * n < whole) {
                const S* next = same ? row + p + ahead : row + 2 * n * channel_step + (p + ahead - pixels) % pixels;
                for (int i = 0; i < 2 * n; ++i) __builtin_prefetch(next + i * channel_step);
            }
            gather_pairs<S>(row + p, channel_step, to + p * to_step + c, to_step);
        }
        plain(c, 2 * n, p, pixels);
    }
    plain(whole, channels - whole, 0, pixels);
}

template <class S, class T>
constexpr auto bits_gatherer() -> decltype(Layout<S, T>::gather_bits) {
    if constexpr (sizeof(S) == 2) return gather_bits<S>;
    return nullptr;
}

template <class S, class T>
void scatter_strided(const T* from, int64_t from_step, int64_t channels, int64_t pixels, S* to, int64_t channel_step,
                     int64_t pixel_step, const S* bias, bool accumulate) {
    for (int64_t c = 0; c < channels; ++c) {
        const T shift = bias ? widen(bias[c]) : T(0);
        for (int64_t p = 0; p < pixels; ++p) {
            S& target = to[c * channel_step + p * pixel_step];
            const T value = from[p * from_step + c] + shift;
            narrow(accumulate ? widen(target) + value : value, target);
        }
    }
}

template <class S, class T>
void scatter_channels_last(const T* from, int64_t from_step, int64_t channels, int64_t pixels, S* to,
                           int64_t pixel_step, const S* bias, bool accumulate) {
    constexpr int n = lanes<T>;
    const int64_t whole = channels - channels % n;
    for (int64_t p = 0; p < pixels; ++p) {
        S* row = to + p * pixel_step;
        for (int64_t c = 0; c < whole; c += n) {
            Vec<T> value = load(from + p * from_step + c);
            if (bias) value += load_wide(bias + c);
            if (accumulate) value += load_wide(row + c);
            store_narrow(row + c, value);
        }
    }
    scatter_strided(from + whole, from_step, channels - whole, pixels, to + whole, 1, pixel_step,
                    bias ? bias + whole : nullptr, accumulate);
}

// See gather_square.
template <class S, class T>
__attribute__((noinline)) void scatter_square(const T* from, int64_t from_step, S* to, int64_t channel_step,
                                              const S* bias, bool accumulate) {
    constexpr int n = lanes<T>;
    Vec<T> rows[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = load(from + i * from_step);
    transpose<T>(rows);
    if (bias) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) rows[i] += splat<T>(widen(bias[i]));
    }
    if (accumulate) {
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) rows[i] += load_wide(to + i * channel_step);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) store_narrow(to + i * channel_step, rows[i]);
}

template <class S, class T>
__attribute__((noinline)) void scatter_part(const T* from, int64_t from_step, int count, S* to, int64_t channel_step,
                                            const S* bias, bool accumulate) {
    constexpr int n = lanes<T>;
    Vec<T> rows[n];
    for (int i = 0; i < n; ++i) rows[i] = load(from + (i < count ? i : 0) * from_step);
    transpose<T>(rows);
    for (int i = 0; i < n; ++i) {
        S* target = to + i * channel_step;
        if (bias) rows[i] += splat<T>(widen(bias[i]));
        if (accumulate) rows[i] += load_wide_part(target, count);
        store_narrow_part(target, rows[i], count);
    }
}

template <class S, class T>
void scatter(const T* from, int64_t from_step, int64_t channels, int64_t pixels, S* to, int64_t channel_step,
             int64_t pixel_step, const S* bias, bool accumulate) {
    constexpr int n = lanes<T>;
    if (channel_step == 1) {
        return scatter_channels_last(from, from_step, channels, pixels, to, pixel_step, bias, accumulate);
    }
    const int64_t whole = pixel_step == 1 ? channels - channels % n : 0;
    for (int64_t c = 0; c < whole; c += n) {
        const S* shift = bias ? bias + c : nullptr;
        for (int64_t p = 0; p < pixels; p += n) {
            const T* square = from + p * from_step + c;
            S* target = to + c * channel_step + p;
            if (pixels - p >= n) {
                scatter_square<S, T>(square, from_step, target, channel_step, shift, accumulate);
            } else {
                scatter_part<S, T>(square, from_step, static_cast<int>(pixels - p), target, channel_step, shift,
                                   accumulate);
            }
        }
    }
    scatter_strided(from + whole, from_step, channels - whole, pixels, to + whole * channel_step, channel_step,
                    pixel_step, bias ? bias + whole : nullptr, accumulate);
}

template <class S, class T>
void add_blocked(const T* from, int64_t from_step, int64_t channels, int64_t pixels, S* to, int64_t plane,
                 int64_t first, bool accumulate) {
    constexpr int n = lanes<T>;
    for (int64_t c = 0; c < channels; c += 16) {
        const int64_t width = channels - c < 16 ? channels - c : 16;
        S* block = to + c * plane + first * width;
        if (width < 16) {
            scatter_strided(from + c, from_step, width, pixels, block, 1, width, static_cast<const S*>(nullptr),
                            accumulate);
            continue;
        }
        for (int64_t p = 0; p < pixels; ++p) {
#pragma GCC unroll 8
            for (int i = 0; i < 16; i += n) {
                const Vec<T> value = load(from + p * from_step + c + i);
                store_narrow(block + p * 16 + i, accumulate ? load_wide(block + p * 16 + i) + value : value);
            }
        }
    }
}

template <class S, class T>
void pack_outputs(const S* weight, int64_t output_step, int64_t outputs, int64_t channels, int64_t taps, int64_t panel,
                  T* to) {
    constexpr int n = lanes<T>;
    const int64_t run = channels * taps;
    for (int64_t o = 0; o < panel; o += n) {
        int64_t k = 0;  // k = c * taps + t runs along the memory of the weight
        if (o + n <= outputs) {
            for (; k + n <= run; k += n) {
                Vec<T> rows[n];
#pragma GCC unroll 16
                for (int i = 0; i < n; ++i) rows[i] = load_wide(weight + (o + i) * output_step + k);
                transpose<T>(rows);
                int64_t c = k / taps, t = k % taps;
                for (int i = 0; i < n; ++i) {
                    store(to + (t * channels + c) * panel + o, rows[i]);
                    if (++t == taps) t = 0, ++c;  // divisions here took longer than all the rest
                }
            }
        }
        for (; k < run; ++k) {
            const int64_t c = k / taps, t = k % taps;
            T* row = to + (t * channels + c) * panel + o;
            for (int i = 0; i < n; ++i) row[i] = o + i < outputs ? widen(weight[(o + i) * output_step + k]) : T(0);
        }
    }
}

// One output of `pack_columns`: squares of channels x taps are turned round in registers.
template <class S, class T>
void pack_run(const S* run, int64_t o, int64_t outputs, int64_t channels, int64_t taps, int64_t panel, T* to) {
    constexpr int n = lanes<T>;
    for (int64_t t = 0; t < taps; t += n) {
        const int count = static_cast<int>(taps - t < n ? taps - t : n);
        for (int64_t c = 0; c < channels; c += n) {
            Vec<T> rows[n];
#pragma GCC unroll 16
            for (int i = 0; i < n; ++i) rows[i] = load_wide_part(run + (c + i) * taps + t, count);
            transpose<T>(rows);
            for (int i = 0; i < count; ++i) {
                const int64_t column = (t + i) * channels + c;
                store(to + ((column / panel) * outputs + o) * panel + column % panel, rows[i]);
            }
        }
    }
}

template <class S, class T>
void pack_columns(const S* weight, int64_t output_step, int64_t outputs, int64_t channels, int64_t taps, int64_t panel,
                  T* to) {
    const int64_t columns = channels * taps;
    const int64_t padded = round_up(columns, panel);
    const bool whole = channels % lanes<T> == 0;
    for (int64_t o = 0; o < outputs; ++o) {
        const S* run = weight + o * output_step;
        if (whole) {
            pack_run<S, T>(run, o, outputs, channels, taps, panel, to);
        } else {
            for (int64_t column = 0; column < columns; ++column) {
                to[((column / panel) * outputs + o) * panel + column % panel] =
                    widen(run[column % channels * taps + column / channels]);
            }
        }
        for (int64_t column = columns; column < padded; ++column) {
            to[((column / panel) * outputs + o) * panel + column % panel] = T(0);
        }
    }
}

template <class S, class T>
void taps_last(const T* from, int64_t channels, int64_t taps, T* run, S* to) {
    constexpr int n = lanes<T>;
    for (int64_t i = 0; i < channels * taps; ++i) run[i] = from[i];
    int64_t c = 0;
    for (; c + n <= channels; c += n) {
        for (int64_t t = 0; t < taps; t += n) {
            const int count = static_cast<int>(taps - t < n ? taps - t : n);
            Vec<T> rows[n];
#pragma GCC unroll 16
            for (int i = 0; i < n; ++i) rows[i] = i < count ? load(run + (t + i) * channels + c) : Vec<T>{};
            transpose<T>(rows);
            for (int i = 0; i < n; ++i) store_narrow_part(to + (c + i) * taps + t, rows[i], count);
        }
    }
    for (; c < channels; ++c) {
        for (int64_t t = 0; t < taps; ++t) narrow(run[t * channels + c], to[c * taps + t]);
    }
}

template <class S, class T>
constexpr Layout<S, T> table{gather<S, T>,      bits_gatherer<S, T>(), scatter<S, T>,  add_blocked<S, T>,
                             pack_outputs<S, T>, pack_columns<S, T>, taps_last<S, T>};

}  // namespace

const LayoutFloat& layout_float() { return table<float, float>; }
const LayoutDouble& layout_double() { return table<double, double>; }
const LayoutHalf& layout_half() { return table<Half, float>; }
const LayoutBFloat& layout_bfloat() { return table<BFloat, float>; }

}  // namespace dcn::DCN_ISA
