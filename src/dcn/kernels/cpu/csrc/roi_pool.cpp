// RoI max pooling, forward and backward. The caller (kernels/cpu/roi_pool.py) gives the cells of every bin.
#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "status.h"

// Mirrors _Call in kernels/cpu/roi_pool.py.
struct DcnRoiMaxCall {
    int64_t images, channels, height, width, rois, bins_y, bins_x, is_double, threads;
    const void* data;                     // [N, C, H, W]
    const int64_t* image;                 // [R]
    const int64_t *top, *bottom;          // [R, P]: first cell and the one after the last
    const int64_t *left, *right;          // [R, Q]
};

namespace dcn {
namespace {

// Place of the first largest value of a bin, or -1 without cells. NaN counts as largest.
template <class T>
int64_t largest(const DcnRoiMaxCall& call, const T* plane, int64_t r, int64_t p, int64_t q) {
    const int64_t top = call.top[r * call.bins_y + p], bottom = call.bottom[r * call.bins_y + p];
    const int64_t left = call.left[r * call.bins_x + q], right = call.right[r * call.bins_x + q];
    if (top >= bottom || left >= right) return -1;
    int64_t best = top * call.width + left;
    for (int64_t y = top; y < bottom; ++y) {
        for (int64_t x = left; x < right; ++x) {
            const T value = plane[y * call.width + x];
            if (value > plane[best] || (value != value && plane[best] == plane[best])) best = y * call.width + x;
        }
    }
    return best;
}

template <class T>
void forward(const DcnRoiMaxCall& call, T* output) {
    const int64_t plane = call.height * call.width, bins = call.bins_y * call.bins_x;
    dcn_parallel_for(call.rois, static_cast<int>(call.threads), [&](int64_t r) {
        const T* data = static_cast<const T*>(call.data) + call.image[r] * call.channels * plane;
        T* out = output + r * call.channels * bins;
        for (int64_t c = 0; c < call.channels; ++c, data += plane) {
            for (int64_t bin = 0; bin < bins; ++bin) {
                const int64_t place = largest(call, data, r, bin / call.bins_x, bin % call.bins_x);
                *out++ = place < 0 ? T(0) : data[place];
            }
        }
    });
}

// Each task owns one channel of one image and takes the RoIs in order, so the sums do not depend on the threads.
template <class T>
void backward(const DcnRoiMaxCall& call, const T* grad_output, T* grad_data) {
    const int64_t plane = call.height * call.width, bins = call.bins_y * call.bins_x;
    dcn_parallel_for(call.images * call.channels, static_cast<int>(call.threads), [&](int64_t task) {
        const T* data = static_cast<const T*>(call.data) + task * plane;
        T* grad = grad_data + task * plane;
        for (int64_t r = 0; r < call.rois; ++r) {
            if (call.image[r] != task / call.channels) continue;
            const T* from = grad_output + (r * call.channels + task % call.channels) * bins;
            for (int64_t bin = 0; bin < bins; ++bin) {
                const int64_t place = largest(call, data, r, bin / call.bins_x, bin % call.bins_x);
                if (place >= 0) grad[place] += from[bin];
            }
        }
    });
}

}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_roi_max_forward(const DcnRoiMaxCall* call, void* output) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::forward(*call, static_cast<double*>(output));
        } else {
            dcn::forward(*call, static_cast<float*>(output));
        }
    });
}

// grad_data [N, C, H, W] is zero on entry.
DCN_EXPORT int dcn_roi_max_backward(const DcnRoiMaxCall* call, const void* grad_output, void* grad_data) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::backward(*call, static_cast<const double*>(grad_output), static_cast<double*>(grad_data));
        } else {
            dcn::backward(*call, static_cast<const float*>(grad_output), static_cast<float*>(grad_data));
        }
    });
}
