// Vectors of float32 as wide as the processor's registers, and the few functions of them that the kernels share.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16;
#elif defined(__AVX2__)
#include <immintrin.h>
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

static inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
static inline void store(float* to, Vector x) { *reinterpret_cast<Loose*>(to) = x; }
static inline Vector all(float x) { return x - Vector{}; }

// What is loaded once and multiplied many times: left to itself GCC reads it from memory again in every multiplication, and a product then
// waits for its loads.
static inline Vector in_register(Vector x) {
#if defined(__AVX2__)
  asm("" : "+v"(x));
#endif
  return x;
}

// Least and greatest let a NaN in x through.
#if defined(__AVX512F__)
static inline Vector least(Vector x, Vector bound) { return _mm512_min_ps(bound, x); }
static inline Vector greatest(Vector x, Vector bound) { return _mm512_max_ps(bound, x); }
static inline Vector reciprocal(Vector x) {
  const Vector guess = _mm512_rcp14_ps(x);  // 14 bits, and one step of Newton's method doubles them
  return guess * (2.0f - x * guess);
}
static inline Vector nearest(Vector x) { return _mm512_roundscale_ps(x, 8); }
static inline Vector scaled(Vector x, Vector exponent) { return _mm512_scalef_ps(x, exponent); }
#else
#if defined(__AVX2__)
static inline Vector least(Vector x, Vector bound) { return _mm256_min_ps(bound, x); }
static inline Vector greatest(Vector x, Vector bound) { return _mm256_max_ps(bound, x); }
#else
static inline Vector least(Vector x, Vector bound) { return x > bound ? bound : x; }
static inline Vector greatest(Vector x, Vector bound) { return x < bound ? bound : x; }
#endif
static inline Vector reciprocal(Vector x) { return 1.0f / x; }
static inline Vector nearest(Vector x) {
  const Vector rounder = all(12582912.0f);  // 1.5 · 2^23 has no room for a fraction
  return (x + rounder) - rounder;
}
static inline Vector scaled(Vector x, Vector exponent) {
  exponent = greatest(exponent, all(-126.0f));
  return (Vector)((Whole)x + (__builtin_convertvector(exponent, Whole) << 23));
}
#endif

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LARGEST = 125.0f;  // 2^125 and its reciprocal are both normal numbers

// 2^x for x ≤ 126 within 2e-7 of it: x = n + f with |f| ≤ ½, and a minimax polynomial in f.
static inline Vector power_of_two(Vector x) {
  const Vector n = nearest(x), f = x - n;
  Vector p = f * 0.0013276472454890609f + 0.009675540961325169f;
  p = p * f + 0.05550713092088699f;
  p = p * f + 0.24022120237350464f;
  p = p * f + 0.6931469440460205f;
  return scaled(p * f + 1.0f, n);
}

static inline Vector sigmoid_of_negated(Vector x) { return reciprocal(1.0f + power_of_two(least(x, all(LARGEST)))); }
