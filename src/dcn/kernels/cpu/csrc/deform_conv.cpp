// C ABI of deformable convolution.
#include "deform_conv.h"

#include <algorithm>

#include "status.h"

namespace {

// No more threads than have something to do: to wake a second one took 5 us of a call of 25.
DcnDeformConv with_useful_threads(DcnDeformConv call) {
    constexpr int64_t least = 100000;  // multiplications of a thread, about 2 us
    const int64_t taps = call.kernel[0] * call.kernel[1] * call.kernel[2];
    const int64_t samples = call.batch * call.out[0] * call.out[1] * call.out[2] * taps * call.channels;
    const int64_t work = samples * (5 + call.outputs / std::max<int64_t>(1, call.groups));
    call.threads = std::max<int64_t>(1, std::min(call.threads, work / least));
    return call;
}

}  // namespace

DCN_EXPORT int dcn_deform_conv_forward(const DcnDeformConv* call) {
    return dcn_guard([&] { dcn::deform_conv_forward(with_useful_threads(*call)); });
}

DCN_EXPORT int dcn_deform_conv_backward(const DcnDeformConv* call) {
    return dcn_guard([&] { dcn::deform_conv_backward(with_useful_threads(*call)); });
}
