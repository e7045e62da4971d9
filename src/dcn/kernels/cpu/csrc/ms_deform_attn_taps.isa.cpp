// From locations to corners. Compiled without fused multiply-add (CMakeLists.txt): `location * width - 0.5` rounds as in
// the reference, so that every instruction set takes the same side where a sample lies on a pixel's centre.
#include "ms_deform_attn_kernels.h"
#include "vec.h"

namespace dcn {
namespace DCN_ISA {
namespace {

template <class T, bool Slopes>
void locate_loop(const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count, int64_t pixel_bytes,
                 int64_t outside) {
    const T* __restrict location = samples.location;
    const T* __restrict attention = samples.attention;
    const T *__restrict widths = levels.width, *__restrict heights = levels.height;
    const int32_t *__restrict columns = levels.columns, *__restrict rows = levels.rows;
    const int64_t* __restrict starts = levels.start;
    int64_t *__restrict p0 = samples.place[0], *__restrict p1 = samples.place[1];
    int64_t *__restrict p2 = samples.place[2], *__restrict p3 = samples.place[3];
    T *__restrict w0 = samples.weight[0], *__restrict w1 = samples.weight[1];
    T *__restrict w2 = samples.weight[2], *__restrict w3 = samples.weight[3];
    T *__restrict rights = samples.right, *__restrict downs = samples.down;
    for (int64_t i = 0; i < count; ++i) {
        const T x = location[2 * i] * widths[i] - T(0.5), y = location[2 * i + 1] * heights[i] - T(0.5);
        // Compared before the cast to int, which is undefined for NaN and 1e30.
        const bool valid = (x > -1) & (x < widths[i]) & (y > -1) & (y < heights[i]);
        const T safe_x = valid ? x : T(0), safe_y = valid ? y : T(0);
        int32_t left = static_cast<int32_t>(safe_x), top = static_cast<int32_t>(safe_y);
        left -= safe_x < static_cast<T>(left);
        top -= safe_y < static_cast<T>(top);
        const T right = safe_x - static_cast<T>(left), down = safe_y - static_cast<T>(top);
        const bool in_left = valid & (left >= 0), in_right = valid & (left + 1 < columns[i]);
        const bool in_top = top >= 0, in_bottom = top + 1 < rows[i];
        const T factor = attention[i];
        const int64_t row = static_cast<int64_t>(columns[i]) * pixel_bytes;
        const int64_t corner = starts[i] + top * row + left * pixel_bytes;
        const bool in0 = in_top & in_left, in1 = in_top & in_right, in2 = in_bottom & in_left, in3 = in_bottom & in_right;
        p0[i] = in0 ? corner : outside;
        p1[i] = in1 ? corner + pixel_bytes : outside;
        p2[i] = in2 ? corner + row : outside;
        p3[i] = in3 ? corner + row + pixel_bytes : outside;
        w0[i] = in0 ? (1 - down) * (1 - right) * factor : T(0);
        w1[i] = in1 ? (1 - down) * right * factor : T(0);
        w2[i] = in2 ? down * (1 - right) * factor : T(0);
        w3[i] = in3 ? down * right * factor : T(0);
        if (Slopes) {
            rights[i] = right;
            downs[i] = down;
        }
    }
}

template <class T>
void locate(const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count, int64_t pixel_bytes,
            int64_t outside, bool slopes) {
    if (slopes) {
        locate_loop<T, true>(samples, levels, count, pixel_bytes, outside);
    } else {
        locate_loop<T, false>(samples, levels, count, pixel_bytes, outside);
    }
}

template <class T>
void combine(const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count, int64_t outside) {
    T *__restrict location = samples.location, *__restrict attention = samples.attention;
    const T *__restrict widths = levels.width, *__restrict heights = levels.height;
    const int64_t *__restrict p0 = samples.place[0], *__restrict p1 = samples.place[1];
    const int64_t *__restrict p2 = samples.place[2], *__restrict p3 = samples.place[3];
    const T *__restrict rights = samples.right, *__restrict downs = samples.down, *__restrict dots = samples.dots;
    for (int64_t i = 0; i < count; ++i) {
        // Chosen, not multiplied by 0: a gradient of NaN does not reach samples that lie outside.
        const T d0 = p0[i] == outside ? T(0) : dots[4 * i], d1 = p1[i] == outside ? T(0) : dots[4 * i + 1];
        const T d2 = p2[i] == outside ? T(0) : dots[4 * i + 2], d3 = p3[i] == outside ? T(0) : dots[4 * i + 3];
        const bool valid = (p0[i] != outside) | (p1[i] != outside) | (p2[i] != outside) | (p3[i] != outside);
        const T right = rights[i], down = downs[i], factor = valid ? attention[i] : T(0);
        const T top = (1 - right) * d0 + right * d1, bottom = (1 - right) * d2 + right * d3;
        attention[i] = (1 - down) * top + down * bottom;
        location[2 * i] = ((1 - down) * (d1 - d0) + down * (d3 - d2)) * factor * widths[i];
        location[2 * i + 1] = (bottom - top) * factor * heights[i];
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
