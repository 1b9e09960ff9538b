// Kernels of infinitely wide hierarchical convolutional networks between two sets of inputs; float64, one CPU.
//
// A node of the tree of patches holds, for a pair of inputs, the complement δ = 1 − cos θ of the cosine between them and the tangent kernel
// n before its non-linearity. The non-linearity makes of them
//
//     κ = δ − (sin θ − θ cos θ) / π  (what is missing of κ_1 to 1),     n' = (1 − κ) + n (1 − θ/π)
//
// and a node with children c of weights u_c, v_c (Σ u² = Σ v² = 1) has  δ = Σ ½ (u_c − v_c)² + u_c v_c κ_c  and  n = Σ u_c v_c n'_c.
// Complements instead of cosines keep every digit of pairs that are close, and give a diagonal that is exact.
//
// A row is taken with a tile of columns through all leaves, depth first, so that what is between them is one tile a level, in the first
// cache, whatever the number of leaves. Where both sets are the same one, tiles under the diagonal are copied.

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 8;
#elif defined(__AVX__)
constexpr int LANES = 4;
#else
constexpr int LANES = 2;
#endif

typedef double Vector __attribute__((vector_size(8 * LANES)));
typedef double Loose __attribute__((vector_size(8 * LANES), aligned(8)));

static inline Vector load(const double* from) { return *reinterpret_cast<const Loose*>(from); }
static inline void store(double* to, Vector x) { *reinterpret_cast<Loose*>(to) = x; }
static inline Vector all(double x) { return x - Vector{}; }

static inline Vector root(Vector x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_pd(x);
#elif defined(__AVX__)
  return _mm256_sqrt_pd(x);
#else
  for (int lane = 0; lane < LANES; ++lane) x[lane] = __builtin_sqrt(x[lane]);
  return x;
#endif
}

struct Problem {
  int64_t levels, leaves, patch, rows, columns, stride_x, stride_y, symmetric, tangent, threads;
  const int64_t* branching;  // (levels): nodes of level l under one node of the next; the last: all nodes of the top level
  const double *x, *y;       // directions of patches: (leaves, patch, stride ≥ rows or columns rounded up to LANES)
  const double *u, *v;       // weights of nodes, level by level: (nodes of all levels, stride)
  double *feature_kernel, *tangent_kernel;  // (rows, columns); tangent_kernel may be null
};

constexpr int64_t TILE = 64;  // rows and columns: a multiple of LANES
constexpr double PI = 3.14159265358979323846;

// asin(√z)/√z for z in [0, ¼] within 2e-18: a minimax polynomial.
static inline Vector arcsine_over_root(Vector z) {
  Vector p = z * 0.032579347966928419977 - 0.020930658315182449668;
  p = p * z + 0.02166805886905635856;
  p = p * z + 0.0037180577483250539143;
  p = p * z + 0.010778675120995992488;
  p = p * z + 0.011398850408440755826;
  p = p * z + 0.013980882992171009717;
  p = p * z + 0.017351600625343434802;
  p = p * z + 0.022372216106072146375;
  p = p * z + 0.030381942642327186119;
  p = p * z + 0.044642857176863219311;
  p = p * z + 0.074999999999666105963;
  p = p * z + 0.16666666666666795465;
  return p * z + 0.99999999999999999918;
}

// θ of δ = 1 − cos θ in [0, 2]: asin(√(δ/2)) doubled near both ends, asin of the cosine between them.
static inline Vector angle_of(Vector delta) {
  const Vector cosine = 1.0 - delta, magnitude = cosine < 0.0 ? -cosine : cosine;
  const auto middle = magnitude < 0.5;
  const Vector left = 2.0 - delta, opposite = left > 0.0 ? left : Vector{};  // rounding passes 2 where patches are opposite
  const Vector near = delta < 1.0 ? delta : opposite;
  const Vector z = middle ? cosine * cosine : 0.5 * near;
  const Vector size = middle ? magnitude : root(z);
  const Vector arcsine = size * arcsine_over_root(z);
  const Vector acute = middle ? 0.5 * PI - arcsine : 2.0 * arcsine;
  return cosine < 0.0 ? PI - acute : acute;
}

struct Level {
  double delta[TILE], tangent[TILE];
};

template <bool TANGENT>
struct Walk {
  const Problem& problem;
  std::vector<int64_t> offset;  // where a level's weights start
  std::vector<Level> level;
  double feature[TILE], tangent[TILE];

  explicit Walk(const Problem& p) : problem(p), offset(p.levels), level(p.levels) {
    int64_t nodes = p.leaves, start = 0;
    for (int64_t l = 0; l < p.levels; ++l) {
      offset[l] = start;
      start += nodes;
      nodes /= p.branching[l];
    }
  }

  // One row against `width` columns (rounded up to whole vectors).
  void row(int64_t i, int64_t column, int64_t width) {
    const Problem& p = problem;
    std::fill(feature, feature + TILE, 0.0);
    std::fill(tangent, tangent + TILE, 0.0);
    for (int64_t l = 1; l < p.levels; ++l) clear(level[l]);
    for (int64_t leaf = 0; leaf < p.leaves; ++leaf) {
      patch(leaf, i, column, width);
      int64_t node = leaf;
      for (int64_t l = 0; l < p.levels; ++l) {
        rise(l, node, i, column, width);
        if ((node + 1) % p.branching[l]) break;  // its parent has children to come
        node /= p.branching[l];
      }
    }
  }

  static void clear(Level& at) {
    std::fill(at.delta, at.delta + TILE, 0.0);
    if (TANGENT) std::fill(at.tangent, at.tangent + TILE, 0.0);
  }

  void patch(int64_t leaf, int64_t i, int64_t column, int64_t width) {
    const Problem& p = problem;
    const double* x = p.x + leaf * p.patch * p.stride_x + i;
    const double* y = p.y + leaf * p.patch * p.stride_y + column;
    for (int64_t t = 0; t < width; t += LANES) {
      Vector sum = {};
      for (int64_t k = 0; k < p.patch; ++k) {
        const Vector apart = x[k * p.stride_x] - load(y + k * p.stride_y + t);
        sum += apart * apart;
      }
      const Vector delta = 0.5 * sum;
      store(level[0].delta + t, delta);
      if (TANGENT) store(level[0].tangent + t, 1.0 - delta);
    }
  }

  // A finished node's non-linearity, and its share in its parent's or in the output.
  void rise(int64_t l, int64_t node, int64_t i, int64_t column, int64_t width) {
    const Problem& p = problem;
    const bool top = l + 1 == p.levels;
    const double u = p.u[(offset[l] + node) * p.stride_x + i];
    const double* v = p.v + (offset[l] + node) * p.stride_y + column;
    Level& at = level[l];
    double* up = top ? feature : level[l + 1].delta;
    double* up_tangent = top ? tangent : level[l + 1].tangent;
    for (int64_t t = 0; t < width; t += LANES) {
      const Vector delta = load(at.delta + t), w = load(v + t), both = u * w;
      const Vector theta = angle_of(delta), cosine = 1.0 - delta;
      const Vector around = delta * (2.0 - delta);
      const Vector sine = root(around > 0.0 ? around : Vector{});
      const Vector excess = (sine - theta * cosine) * (1.0 / PI), raw = delta - excess;
      const Vector missing = raw > 0.0 ? raw : Vector{};
      const Vector kept = 1.0 - missing, apart = u - w;
      store(up + t, load(up + t) + (top ? both * kept : 0.5 * apart * apart + both * missing));
      if (TANGENT) {
        const Vector risen = kept + load(at.tangent + t) * (1.0 - theta * (1.0 / PI));
        store(up_tangent + t, load(up_tangent + t) + both * risen);
      }
    }
    if (l) clear(at);
  }
};

template <bool TANGENT>
static void block(Walk<TANGENT>& walk, int64_t first, int64_t column) {
  const Problem& p = walk.problem;
  const int64_t last = std::min(first + TILE, p.rows), end = std::min(column + TILE, p.columns);
  const int64_t width = (end - column + LANES - 1) / LANES * LANES;
  for (int64_t i = first; i < last; ++i) {
    walk.row(i, column, width);
    std::copy(walk.feature, walk.feature + (end - column), p.feature_kernel + i * p.columns + column);
    if (TANGENT) std::copy(walk.tangent, walk.tangent + (end - column), p.tangent_kernel + i * p.columns + column);
  }
}

static void mirror(double* kernel, int64_t size, int64_t first, int64_t column) {
  const int64_t last = std::min(first + TILE, size), end = std::min(column + TILE, size);
  for (int64_t j = column; j < end; ++j)
    for (int64_t i = first; i < last; ++i) kernel[j * size + i] = kernel[i * size + j];
}

template <bool TANGENT>
static void run(const Problem& p) {
  const int64_t row_blocks = (p.rows + TILE - 1) / TILE, column_blocks = (p.columns + TILE - 1) / TILE;
#pragma omp parallel num_threads(p.threads)
  {
    Walk<TANGENT> walk(p);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t r = 0; r < row_blocks; ++r)
      for (int64_t c = 0; c < column_blocks; ++c) {
        if (p.symmetric && c < r) continue;
        block<TANGENT>(walk, r * TILE, c * TILE);
        if (!p.symmetric || c == r) continue;
        mirror(p.feature_kernel, p.rows, r * TILE, c * TILE);
        if (TANGENT) mirror(p.tangent_kernel, p.rows, r * TILE, c * TILE);
      }
  }
}

extern "C" void hierarchical_kernel(const Problem* problem) {
  problem->tangent ? run<true>(*problem) : run<false>(*problem);
}
