// C ABI of deformable convolution.
#include "deform_conv.h"

#include "status.h"

DCN_EXPORT int dcn_deform_conv_forward(const DcnDeformConv* call) {
    return dcn_guard([&] { dcn::deform_conv_forward(*call); });
}

DCN_EXPORT int dcn_deform_conv_backward(const DcnDeformConv* call) {
    return dcn_guard([&] { dcn::deform_conv_backward(*call); });
}
