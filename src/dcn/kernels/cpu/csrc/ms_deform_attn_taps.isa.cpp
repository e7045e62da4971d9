// From locations to corners, and from products with the gradient to gradients of locations. Compiled without fused
// multiply-add (CMakeLists.txt): `location * width - 0.5` rounds as in the reference, so that every instruction set
// takes the same side where a sample lies on a pixel's centre.
#include <utility>

#include "ms_deform_attn_kernels.h"
#include "vec_pairs.h"

namespace dcn {
namespace DCN_ISA {
namespace {

template <class T>
using Mask = typename VecOf<AttnIndex<T>>::type;

// The lanes where `mask` holds, 0 in the others, whatever they are.
template <class T>
inline Vec<T> keep(Mask<T> mask, Vec<T> value) {
    return (Vec<T>)((Mask<T>)value & mask);
}

template <class T>
inline Vec<T> load_some(const T* from, int64_t count) {
    return count >= lanes<T> ? load(from) : load_part(from, count > 0 ? static_cast<int>(count) : 0);
}

template <class T>
inline void store_some(T* to, Vec<T> value, int64_t count) {
    if (count >= lanes<T>) return store(to, value);
    store_part(to, value, count > 0 ? static_cast<int>(count) : 0);
}

// Whole number and fraction of positions along one axis.
template <class T>
struct Side {
    Mask<T> low;
    Vec<T> fraction;

    explicit Side(Vec<T> position) {
        low = __builtin_convertvector(position, Mask<T>);
        low += (Mask<T>)(position < __builtin_convertvector(low, Vec<T>));  // true is -1: truncated becomes rounded down
        fraction = position - __builtin_convertvector(low, Vec<T>);
    }
};

template <class T>
inline void corner(const AttnSamples<T>& samples, int k, int64_t at, Mask<T> inside, Mask<T> index, Vec<T> weight) {
    store(samples.index[k] + at, (Mask<T>)(index | ~inside));
    store(samples.weight[k] + at, keep<T>(inside, weight));
}

template <class T>
void locate(const T* location, const T* attention, const AttnSamples<T>& samples, const AttnLevels<T>& levels,
            int64_t count, int64_t pixel_bytes, int64_t outside, bool slopes) {
    constexpr int n = lanes<T>;
    for (int64_t i = 0; i < count; i += n) {
        Vec<T> x, y;
        split_pairs<T>(load_some(location + 2 * i, 2 * (count - i)), load_some(location + 2 * i + n, 2 * (count - i) - n),
                       x, y, all_lanes<T>);
        const Vec<T> width = load(levels.width + i), height = load(levels.height + i);
        x = x * width - T(0.5);
        y = y * height - T(0.5);
        // Compared before they become integers, which is undefined for NaN and 1e30.
        const Mask<T> valid = (x > T(-1)) & (x < width) & (y > T(-1)) & (y < height);
        const Side<T> across(keep<T>(valid, x)), along(keep<T>(valid, y));
        const Vec<T> right = across.fraction, down = along.fraction;
        const Mask<T> columns = load(levels.columns + i), rows = load(levels.rows + i);
        const Mask<T> in_left = valid & (across.low >= 0), in_right = valid & (across.low + 1 < columns);
        const Mask<T> in_top = along.low >= 0, in_bottom = along.low + 1 < rows;
        const Mask<T> first = load(levels.start + i) + along.low * columns + across.low;
        const Vec<T> factor = load_some(attention + i, count - i);
        const Vec<T> upper = (1 - down) * factor, lower = down * factor;
        corner<T>(samples, 0, i, in_top & in_left, first, upper * (1 - right));
        corner<T>(samples, 1, i, in_top & in_right, first + 1, upper * right);
        corner<T>(samples, 2, i, in_bottom & in_left, first + columns, lower * (1 - right));
        corner<T>(samples, 3, i, in_bottom & in_right, first + columns + 1, lower * right);
        if (slopes) {
            store(samples.right + i, right);
            store(samples.down + i, down);
        }
    }
    for (int k = 0; k < 4; ++k) {
        const AttnIndex<T>* __restrict index = samples.index[k];
        int64_t* __restrict row = samples.row[k];
        for (int64_t i = 0; i < count; ++i) row[i] = index[i] < 0 ? outside : index[i] * pixel_bytes;
    }
}

template <class T>
void combine(const T* attention, const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count,
             T* by_location, T* by_attention) {
    constexpr int n = lanes<T>;
    for (int64_t i = 0; i < count; i += n) {
        Vec<T> even[2], odd[2], dots[4];  // even: corners 0 and 2 of the samples in turn, odd: 1 and 3
        for (int half = 0; half < 2; ++half) {
            const T* from = samples.dots + 4 * i + 2 * half * n;
            split_pairs<T>(load(from), load(from + n), even[half], odd[half], all_lanes<T>);
        }
        split_pairs<T>(even[0], even[1], dots[0], dots[2], all_lanes<T>);
        split_pairs<T>(odd[0], odd[1], dots[1], dots[3], all_lanes<T>);
        Mask<T> valid{};
        for (int k = 0; k < 4; ++k) {
            // Chosen, not multiplied by 0: a gradient of NaN does not reach samples that lie outside.
            const Mask<T> inside = load(samples.index[k] + i) >= 0;
            dots[k] = keep<T>(inside, dots[k]);
            valid |= inside;
        }
        const Vec<T> right = load(samples.right + i), down = load(samples.down + i);
        const Vec<T> factor = keep<T>(valid, load_some(attention + i, count - i));
        const Vec<T> top = (1 - right) * dots[0] + right * dots[1], bottom = (1 - right) * dots[2] + right * dots[3];
        const Vec<T> by_x = ((1 - down) * (dots[1] - dots[0]) + down * (dots[3] - dots[2])) * factor;
        Vec<T> low, high;
        join_pairs<T>(by_x * load(levels.width + i), (bottom - top) * factor * load(levels.height + i), low, high,
                      all_lanes<T>);
        store_some(by_location + 2 * i, low, 2 * (count - i));
        store_some(by_location + 2 * i + n, high, 2 * (count - i) - n);
        store_some(by_attention + i, (1 - down) * top + down * bottom, count - i);
    }
}

template <class T>
constexpr AttnTaps<T> taps() {
    return {locate<T>, combine<T>};
}

}  // namespace

const AttnTapsTable& attn_taps_table() {
    static const AttnTapsTable table = {taps<float>(), taps<double>()};
    return table;
}

}  // namespace DCN_ISA
}  // namespace dcn
