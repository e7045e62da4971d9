#include "roi_max.h"
#include "vec.h"

namespace dcn::DCN_ISA {
namespace {

template <class T>
void largest(const T* data, int64_t width, const RoiCells& cells, T* value, typename RoiMaxLoops<T>::Place* location) {
    using Int = typename RoiMaxLoops<T>::Place;
    constexpr int n = lanes<T>;
    for (int64_t c = 0; c < max_channels; c += n) {
        const int64_t first = cells.top * width + cells.left;
        Vec<T> best = load(data + first * max_channels + c);
        Vec<Int> at = splat(static_cast<Int>(first));
        for (int64_t y = cells.top; y < cells.bottom; ++y) {
            for (int64_t x = cells.left; x < cells.right; ++x) {
                const int64_t pixel = y * width + x;
                const Vec<T> found = load(data + pixel * max_channels + c);
                const Vec<Int> more = (found > best) | ((found != found) & (best == best));
                best = more ? found : best;
                at = more ? splat(static_cast<Int>(pixel)) : at;
            }
        }
        store(value + c, best);
        store(location + c, at);
    }
}

template <class T>
constexpr RoiMaxLoops<T> table{largest<T>};

}  // namespace

const RoiMaxLoops<float>& roi_max_float() { return table<float>; }
const RoiMaxLoops<double>& roi_max_double() { return table<double>; }

}  // namespace dcn::DCN_ISA
