// The two passes of a separable resize of RGB images, with the rounding of Pillow: weights are fixed-point numbers of
// kFraction bits, and what the first pass leaves is rounded to bytes. Weights come from the caller; for output n they
// are weights[n * taps ...] of the inputs from first[n] on.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// One library for all processors of a kind: the loader takes the version that fits.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr int kChannels = 3;
constexpr int kFraction = 22;
constexpr std::int32_t kHalf = 1 << (kFraction - 1);
constexpr int kRows = 2;   // worked on at a time
constexpr int kLanes = 4;  // of one pixel: its channels and one that is not used

using Pixels = std::int32_t __attribute__((vector_size(kRows * kLanes * sizeof(std::int32_t))));

inline std::uint8_t rounded(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::min(std::max(sum >> kFraction, 0), 255));
}

}  // namespace

extern "C" {

// (height, width, 3) to (height, out_width, 3); rows of the input are `stride` bytes apart.
FOR_EACH_PROCESSOR void resize_width(
    const std::uint8_t* in, std::int64_t stride, std::int64_t height, std::int64_t width, const std::int32_t* weights,
    const std::int32_t* first, std::int64_t taps, std::uint8_t* out, std::int64_t out_width) {
  std::vector<std::int32_t> wide(width * kRows * kLanes);
  for (std::int64_t top = 0; top < height; top += kRows) {
    for (int row = 0; row < kRows; ++row) {  // an odd height ends with the last row twice
      const std::uint8_t* from = in + std::min(top + row, height - 1) * stride;
      std::int32_t* to = wide.data() + row * kLanes;
      for (std::int64_t x = 0; x < width; ++x) {
        for (int c = 0; c < kChannels; ++c) to[x * kRows * kLanes + c] = from[x * kChannels + c];
      }
    }
    for (std::int64_t x = 0; x < out_width; ++x) {
      Pixels sum = Pixels{} + kHalf;
      const std::int32_t* weight = weights + x * taps;
      const std::int32_t* from = wide.data() + first[x] * kRows * kLanes;
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        Pixels pixels;
        std::memcpy(&pixels, from + tap * kRows * kLanes, sizeof pixels);
        sum += pixels * weight[tap];
      }
      for (int row = 0; row < kRows && top + row < height; ++row) {
        std::uint8_t* to = out + ((top + row) * out_width + x) * kChannels;
        for (int c = 0; c < kChannels; ++c) to[c] = rounded(sum[row * kLanes + c]);
      }
    }
  }
}

// (height, width, 3) to (out_height, width, 3), without gaps between rows.
FOR_EACH_PROCESSOR void resize_height(
    const std::uint8_t* in, std::int64_t width, const std::int32_t* weights, const std::int32_t* first,
    std::int64_t taps, std::uint8_t* out, std::int64_t out_height) {
  const std::int64_t length = width * kChannels;
  std::vector<std::int32_t> sums(length);
  for (std::int64_t y = 0; y < out_height; ++y) {
    std::fill(sums.begin(), sums.end(), kHalf);
    std::int32_t* sum = sums.data();
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const std::uint8_t* from = in + (first[y] + tap) * length;
      const std::int32_t weight = weights[y * taps + tap];
      for (std::int64_t i = 0; i < length; ++i) sum[i] += weight * from[i];
    }
    std::uint8_t* to = out + y * length;
    for (std::int64_t i = 0; i < length; ++i) to[i] = rounded(sum[i]);
  }
}

}  // extern "C"
