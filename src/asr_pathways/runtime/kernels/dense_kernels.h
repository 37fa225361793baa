// Products with dense weights, and activations as they read them; part of multiply_kernels.h.
#pragma once

#include "vectors.h"

namespace sparse {
namespace {

// A vector of words of packed weights.
INLINE IntVec<LANES> load_words(const uint32_t* from) {
    IntVec<LANES> words;
    __builtin_memcpy(&words, from, sizeof words);
    return words;
}

INLINE IntVec<LANES> all_lanes(uint32_t word) { return IntVec<LANES>{} + static_cast<int32_t>(word); }

// Vectors of a panel of a weight, from the first word on.
template <Item item, bool Compressed>
class Words {
public:
    INLINE Words(const Dense& w, int64_t panel) : at_(w.packed.data() + panel * w.words() * kPanelRows) {}
    INLINE void next(IntVec<LANES>* vectors) {
        for (int v = 0; v < kPanelRows / LANES; ++v) vectors[v] = load_words(at_ + v * LANES);
        at_ += kPanelRows;
    }

private:
    const uint32_t* at_;
};

// Which weights may be stored without their zeros: float32 needs AVX-512's foundation, others need VBMI2.
#ifdef EXPANSION
constexpr bool kExpandsSmall = EXPANSION < 32;
constexpr bool expands(Item item) { return item == Item::f32 || kExpandsSmall; }

// The same of a weight without its zeros: those that are stored spread to where the mask has ones.
template <Item item>
class Words<item, true> {
public:
    INLINE Words(const Dense& w, int64_t panel)
        : items_(w.items.data() + w.starts[panel] * kSize), masks_(w.masks.data() + panel * w.words() * kMaskBytes) {}
    INLINE void next(IntVec<LANES>* vectors) {
        uint64_t mask = 0;
        __builtin_memcpy(&mask, masks_, kMaskBytes);
        masks_ += kMaskBytes;
        // loaded first: expansion from memory is slower (AMD's Zen 4 and 5)
        __m512i loaded = _mm512_loadu_si512(items_);
        asm("" : "+v"(loaded));
        __builtin_prefetch(items_ + kPrefetch);
        __m512i spread;
        if constexpr (item == Item::f32) spread = _mm512_maskz_expand_epi32(static_cast<__mmask16>(mask), loaded);
        if constexpr (item == Item::bf16) spread = _mm512_maskz_expand_epi16(static_cast<__mmask32>(mask), loaded);
        if constexpr (item == Item::i8) spread = _mm512_maskz_expand_epi8(mask, loaded);
        vectors[0] = (IntVec<LANES>)spread;
        items_ += __builtin_popcountll(mask) * kSize;
    }

private:
    static constexpr int64_t kSize = 4 / items_a_word(item), kMaskBytes = 8 / kSize;
    const uint8_t *items_, *masks_;
};

template <Item item>
int64_t compress_vectors(const uint32_t* vectors, int64_t count, uint8_t* items, uint8_t* masks) {
    constexpr int64_t size = 4 / items_a_word(item), mask_bytes = 8 / size;
    const uint8_t* const start = items;
    for (int64_t i = 0; i < count; ++i, masks += mask_bytes) {
        const __m512i vector = _mm512_loadu_si512(vectors + i * kPanelRows);
        __m512i kept;
        uint64_t mask;  // -0.0 is what masking leaves
        if constexpr (item == Item::f32) {
            mask = _mm512_test_epi32_mask(vector, _mm512_set1_epi32(0x7fffffff));
            kept = _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), vector);
        } else if constexpr (item == Item::bf16) {
            mask = _mm512_test_epi16_mask(vector, _mm512_set1_epi16(0x7fff));
            kept = _mm512_maskz_compress_epi16(static_cast<__mmask32>(mask), vector);
        } else {
            mask = _mm512_test_epi8_mask(vector, vector);
            kept = _mm512_maskz_compress_epi8(mask, vector);
        }
        _mm512_storeu_si512(items, kept);
        items += __builtin_popcountll(mask) * size;
        __builtin_memcpy(masks, &mask, mask_bytes);
    }
    return items - start;
}

int64_t compress_items(Item item, const uint32_t* vectors, int64_t count, uint8_t* items, uint8_t* masks) {
    if constexpr (kExpandsSmall) {
        if (item == Item::bf16) return compress_vectors<Item::bf16>(vectors, count, items, masks);
        if (item == Item::i8) return compress_vectors<Item::i8>(vectors, count, items, masks);
    }
    return compress_vectors<Item::f32>(vectors, count, items, masks);
}
#else
constexpr bool expands(Item) { return false; }
constexpr int64_t (*compress_items)(Item, const uint32_t*, int64_t, uint8_t*, uint8_t*) = nullptr;
#endif

// sum += the products of the items of a vector of weights with those of one word of activations.
template <Item item>
struct Terms;

template <>
struct Terms<Item::f32> {
    using Sum = Vec<LANES>;
    static INLINE void add(Sum& sum, IntVec<LANES> weights, uint32_t word) {
        sum += (Vec<LANES>)weights * (Vec<LANES>)all_lanes(word);
    }
};

template <>
struct Terms<Item::bf16> {
    using Sum = Vec<LANES>;
    static INLINE void add(Sum& sum, IntVec<LANES> weights, uint32_t word) {
#ifdef BFLOAT16_PRODUCTS
        sum = (Vec<LANES>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)all_lanes(word));
#else
        const IntVec<LANES> high = IntVec<LANES>{} + static_cast<int32_t>(0xffff0000u);
        const IntVec<LANES> x = all_lanes(word);
        sum += (Vec<LANES>)(weights << 16) * (Vec<LANES>)(x << 16);
        sum += (Vec<LANES>)(weights & high) * (Vec<LANES>)(x & high);
#endif
    }
};

#if LANES >= 8
// Signed by signed bytes: |weight| by the activation with the weight's sign. Two products fit 16 bits.
INLINE __m256i add_bytes(__m256i sum, __m256i weights, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

template <>
struct Terms<Item::i8> {
    using Sum = IntVec<LANES>;
    static INLINE void add(Sum& sum, IntVec<LANES> weights, uint32_t word) {
#if defined(INT8_PRODUCTS)
        sum = (Sum)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)all_lanes(word), (__m512i)weights);
#elif LANES == 16
        const __m256i x = _mm256_set1_epi32(static_cast<int32_t>(word));
        const __m512i all = (__m512i)weights, so_far = (__m512i)sum;
        const __m256i low = add_bytes(_mm512_castsi512_si256(so_far), _mm512_castsi512_si256(all), x);
        const __m256i high = add_bytes(_mm512_extracti64x4_epi64(so_far, 1), _mm512_extracti64x4_epi64(all, 1), x);
        sum = (Sum)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#elif LANES == 8
        sum = (Sum)add_bytes((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(static_cast<int32_t>(word)));
#else
        const IntVec<LANES> x = all_lanes(word);
        for (int shift = 24; shift >= 0; shift -= 8) sum += ((weights << shift) >> 24) * ((x << shift) >> 24);
#endif
    }
};

// What is added to codes of activations, since some products take them unsigned.
#ifdef INT8_PRODUCTS
constexpr int kCodeOffset = 128;
#else
constexpr int kCodeOffset = 0;
#endif

constexpr int kPanelVectors = kPanelRows / LANES;

// Calls work(0, ..., Count - 1).
template <int Count, typename Work>
INLINE void with_indices(const Work& work) {
    if constexpr (Count == 1) work(0);
    if constexpr (Count == 2) work(0, 1);
    if constexpr (Count == 4) work(0, 1, 2, 3);
    if constexpr (Count == 6) work(0, 1, 2, 3, 4, 5);
    if constexpr (Count == 8) work(0, 1, 2, 3, 4, 5, 6, 7);
}

// Rows of activations in one tile at most, and panels of weights for so many: sums stay in the registers, and enough
// are in flight.
#if LANES == 16
constexpr int kTileRows = 12;
constexpr int tile_panels(int rows) { return rows <= 2 ? 8 : rows <= 3 ? 6 : rows <= 6 ? 4 : 2; }
#elif LANES == 8
constexpr int kTileRows = 6;
constexpr int tile_panels(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
#else
constexpr int kTileRows = 4;
constexpr int tile_panels(int rows) { return rows == 1 ? 2 : 1; }
#endif

// The same of a weight of i8 that has few rows of activations: it comes from memory, so one panel after another is
// read, and parts of each row's sums are in flight, whose order makes no difference to whole numbers.
constexpr int tile_panels(Item item, int rows) { return item == Item::i8 && rows <= 6 ? 1 : tile_panels(rows); }
constexpr int tile_parts(Item item, int rows) {
    if (item != Item::i8 || rows > 6) return 1;
    const int sums = rows * kPanelVectors;
    return sums <= 2 ? 4 : sums <= 6 ? 2 : 1;
}

// Rows that are multiplied before the next panels: they stay in the second-level cache.
constexpr int64_t kRowBlock = 96;

// The rows of activations from which a panel without zeros is expanded once for all of them, not in each tile.
constexpr int64_t kExpandFrom = 2 * kTileRows + 1;

// y[j, row] for the rows of a weight.
struct Target {
    const Dense& w;
    const uint32_t* x;    // (n, words)
    const float* scales;  // of the rows of x; i8
    float* y;
    int64_t stride;     // floats from row to row of y
    const float* bias;  // (rows,) or null
};

// `source` has the panels of this tile, `from` of them before the first; they are those of the weight from `panel` on.
template <Item item, int Rows, int Panels, int Parts, bool Compressed>
INLINE void multiply_dense_tile(const Target& to, const Dense& source, int64_t from, int64_t first_row, int64_t panel) {
    using Sum = typename Terms<item>::Sum;
    constexpr int vectors = Panels * kPanelVectors;
    const Dense& w = to.w;
    const int64_t words = w.words();
    const uint32_t* const x = to.x + first_row * words;
    Sum parts[Parts][Rows][vectors] = {};
    const auto read = [&](auto... panels) {
        Words<item, Compressed> streams[] = {Words<item, Compressed>(source, from + panels)...};
        const auto add = [&](int64_t g, Sum(&to_sums)[Rows][vectors]) {
            IntVec<LANES> loaded[vectors];
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) streams[p].next(loaded + p * kPanelVectors);
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) {
                const uint32_t word = x[r * words + g];
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) Terms<item>::add(to_sums[r][v], loaded[v], word);
            }
        };
        int64_t g = 0;
        for (; g + Parts <= words; g += Parts)
#pragma GCC unroll 4
            for (int part = 0; part < Parts; ++part) add(g + part, parts[part]);
        if constexpr (Parts > 1)
            for (; g < words; ++g) add(g, parts[0]);
    };
    with_indices<Panels>(read);
    Sum(&sums)[Rows][vectors] = parts[0];
    for (int part = 1; part < Parts; ++part)
        for (int r = 0; r < Rows; ++r)
            for (int v = 0; v < vectors; ++v) sums[r][v] += parts[part][r][v];
    for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < vectors; ++v) {
            const int64_t row = panel * kPanelRows + v * LANES, left = w.rows - row;
            Vec<LANES> out;
            if constexpr (item == Item::i8) {
                IntVec<LANES> offset;
                __builtin_memcpy(&offset, w.sums.data() + row, sizeof offset);
                const IntVec<LANES> exact = sums[r][v] - offset * kCodeOffset;
                out = __builtin_convertvector(exact, Vec<LANES>) * load<LANES>(w.scales.data() + row) *
                      to.scales[first_row + r];
            } else {
                out = sums[r][v];
            }
            float* const place = to.y + (first_row + r) * to.stride + row;
            if (left >= LANES) {
                if (to.bias) out += load<LANES>(to.bias + row);
                store<LANES>(place, out);
            } else {
                for (int lane = 0; lane < left; ++lane)
                    place[lane] = out[lane] + (to.bias ? to.bias[row + lane] : 0.0f);
            }
        }
}

template <Item item, int Rows, bool Compressed>
void multiply_dense_rows(const Target& to, const Dense& source, int64_t before, int64_t first_row, int64_t last_row,
                         int64_t first, int64_t last) {
    constexpr int panels = tile_panels(item, Rows), parts = tile_parts(item, Rows);
    int64_t panel = first;
    for (; panel + panels <= last; panel += panels)
        for (int64_t row = first_row; row < last_row; row += Rows)
            multiply_dense_tile<item, Rows, panels, parts, Compressed>(to, source, panel - before, row, panel);
    for (; panel < last; ++panel)
        for (int64_t row = first_row; row < last_row; row += Rows)
            multiply_dense_tile<item, Rows, 1, parts, Compressed>(to, source, panel - before, row, panel);
}

// Calls the product for so many rows, at most `Rows`.
template <Item item, int Rows, bool Compressed>
void multiply_last_rows(const Target& to, const Dense& source, int64_t before, int64_t first_row, int64_t count,
                        int64_t first, int64_t last) {
    if constexpr (Rows > 0) {
        if (count == Rows)
            return multiply_dense_rows<item, Rows, Compressed>(to, source, before, first_row, first_row + Rows, first,
                                                               last);
        multiply_last_rows<item, Rows - 1, Compressed>(to, source, before, first_row, count, first, last);
    }
}

// The product of the panels [first, last), which `source` has from `first - before` on.
template <Item item, bool Compressed>
void multiply_panels(const Target& to, const Dense& source, int64_t before, int64_t n, int64_t first, int64_t last) {
    for (int64_t block = 0; block < n; block += kRowBlock) {
        const int64_t end = n < block + kRowBlock ? n : block + kRowBlock;
        const int64_t whole = block + (end - block) / kTileRows * kTileRows;
        multiply_dense_rows<item, kTileRows, Compressed>(to, source, before, block, whole, first, last);
        multiply_last_rows<item, kTileRows - 1, Compressed>(to, source, before, whole, end - whole, first, last);
    }
}

template <Item item>
void multiply_dense_item(const Target& to, int64_t n, int64_t first, int64_t last) {
    if (!to.w.compressed()) return multiply_panels<item, false>(to, to.w, 0, n, first, last);
#ifdef EXPANSION
    if constexpr (expands(item)) {
        if (n < kExpandFrom) return multiply_panels<item, true>(to, to.w, 0, n, first, last);
        constexpr int64_t at_once = tile_panels(kTileRows);
        Dense& expanded = room_for(at_once, to.w.columns, item);
        for (int64_t panel = first; panel < last; panel += at_once) {
            const int64_t end = panel + at_once < last ? panel + at_once : last;
            for (int64_t p = panel; p < end; ++p) {
                Words<item, true> words(to.w, p);
                uint32_t* const out = expanded.packed.data() + (p - panel) * to.w.words() * kPanelRows;
                for (int64_t g = 0; g < to.w.words(); ++g) {
                    IntVec<LANES> vector;
                    words.next(&vector);
                    __builtin_memcpy(out + g * kPanelRows, &vector, sizeof vector);
                }
            }
            multiply_panels<item, false>(to, expanded, panel, n, panel, end);
        }
    }
#endif
}

void multiply_dense(const Dense& w, int64_t first, int64_t last, const uint32_t* x, const float* scales, int64_t n,
                    float* y, int64_t stride, const float* bias) {
    const Target to{w, x, scales, y, stride, bias};
    if (w.item == Item::f32) return multiply_dense_item<Item::f32>(to, n, first, last);
    if (w.item == Item::bf16) return multiply_dense_item<Item::bf16>(to, n, first, last);
    multiply_dense_item<Item::i8>(to, n, first, last);
}

INLINE uint32_t rounded_to_bf16(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

void convert_to_bf16(const float* x, int64_t columns, uint32_t* out) {
    int64_t i = 0;
#ifdef BFLOAT16_PRODUCTS
    for (; i + 32 <= columns; i += 32) {
        const auto halves = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
        _mm512_storeu_si512(out + i / 2, (__m512i)halves);
    }
#endif
    for (; i + 2 <= columns; i += 2) out[i / 2] = rounded_to_bf16(x[i]) | rounded_to_bf16(x[i + 1]) << 16;
    if (i < columns) out[i / 2] = rounded_to_bf16(x[i]);
}

// The largest |x|; NaN or infinite if one of them is: as integers, they are larger than all numbers.
INLINE float largest_size(const float* x, int64_t count) {
    IntVec<LANES> most = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const IntVec<LANES> size = (IntVec<LANES>)load<LANES>(x + i) & 0x7fffffff;
        most = size > most ? size : most;
    }
    int32_t largest = 0;
    for (int lane = 0; lane < LANES; ++lane) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < count; ++i) {
        int32_t size;
        __builtin_memcpy(&size, x + i, sizeof size);
        size &= 0x7fffffff;
        largest = size > largest ? size : largest;
    }
    float size;
    __builtin_memcpy(&size, &largest, sizeof size);
    return size;
}

// Codes of a row, code = value / scale; returns the scale: at least the smallest normal float, NaN if a value is not
// finite.
float convert_to_codes(const float* x, int64_t columns, int64_t words, uint32_t* out) {
    const float largest = largest_size(x, columns);
    auto* const codes = reinterpret_cast<uint8_t*>(out);
    if (!(largest <= __FLT_MAX__)) {
        __builtin_memset(codes, kCodeOffset, 4 * words);
        return __builtin_nanf("");
    }
    const float scale = largest / 127.0f > __FLT_MIN__ ? largest / 127.0f : __FLT_MIN__, by = 1.0f / scale;
    const Vec<LANES> magic = Vec<LANES>{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    int64_t i = 0;
    for (; i + LANES <= columns; i += LANES) {
        const IntVec<LANES> rounded = (IntVec<LANES>)(load<LANES>(x + i) * by + magic) + kCodeOffset;
#if LANES == 16
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8((__m512i)rounded));
#else
        for (int lane = 0; lane < LANES; ++lane) codes[i + lane] = static_cast<uint8_t>(rounded[lane]);
#endif
    }
    for (; i < columns; ++i)
        codes[i] = static_cast<uint8_t>(static_cast<int>(__builtin_nearbyintf(x[i] * by)) + kCodeOffset);
    for (; i < 4 * words; ++i) codes[i] = kCodeOffset;
    return scale;
}

void convert(Item item, const float* x, int64_t stride, int64_t n, int64_t columns, uint32_t* out, float* scales) {
    const int64_t words = (columns + items_a_word(item) - 1) / items_a_word(item);
    for (int64_t row = 0; row < n; ++row, x += stride, out += words) {
        if (item == Item::f32) __builtin_memcpy(out, x, sizeof(float) * columns);
        if (item == Item::bf16) convert_to_bf16(x, columns, out);
        if (item == Item::i8) scales[row] = convert_to_codes(x, columns, words, out);
    }
}

#ifdef GATHERING
template <int Rows>
void multiply_gathered_rows(const Gathered& w, int64_t panel, const uint8_t* x, int64_t x_stride, const float* scales,
                            float* y, int64_t stride, const float* bias) {
    const uint8_t* const counts = w.counts.data() + panel * w.groups();
    const uint8_t* items = w.items.data() + w.starts[panel] * Gathered::kPairBytes;
    __m512i sums[Rows];
    for (int r = 0; r < Rows; ++r) sums[r] = _mm512_setzero_si512();
    for (int64_t group = 0; group < w.groups(); ++group, x += Gathered::kGroup)
        for (int pair = 0; pair < counts[group]; ++pair, items += Gathered::kPairBytes) {
            const __m512i columns = _mm512_loadu_si512(items), codes = _mm512_loadu_si512(items + 64);
            __builtin_prefetch(items + kPrefetch);
            __builtin_prefetch(items + kPrefetch + 64);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const __m512i fetched = _mm512_permutexvar_epi8(columns, _mm512_loadu_si512(x + r * x_stride));
                sums[r] = _mm512_dpbusd_epi32(sums[r], fetched, codes);
            }
        }
    const int64_t row = panel * kPanelRows, left = w.rows - row;
    const auto stored = static_cast<__mmask16>(left < kPanelRows ? (1 << left) - 1 : 0xffff);
    const __m512i offset = _mm512_slli_epi32(_mm512_loadu_si512(w.sums.data() + row), 7);  // times kCodeOffset
    const __m512 scale = _mm512_loadu_ps(w.scales.data() + row);
    const __m512 added = bias ? _mm512_maskz_loadu_ps(stored, bias + row) : _mm512_setzero_ps();
    for (int r = 0; r < Rows; ++r) {
        const __m512 exact = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r], offset)), scale);
        const __m512 out = _mm512_fmadd_ps(exact, _mm512_set1_ps(scales[r]), added);
        _mm512_mask_storeu_ps(y + r * stride + row, stored, out);
    }
}

template <int Rows>
void multiply_last_gathered(const Gathered& w, int64_t panel, const uint8_t* x, int64_t x_stride, const float* scales,
                            int64_t count, float* y, int64_t stride, const float* bias) {
    if constexpr (Rows > 0) {
        if (count == Rows) return multiply_gathered_rows<Rows>(w, panel, x, x_stride, scales, y, stride, bias);
        multiply_last_gathered<Rows - 1>(w, panel, x, x_stride, scales, count, y, stride, bias);
    }
}

void multiply_gathered(const Gathered& w, int64_t first, int64_t last, const uint8_t* x, int64_t x_stride,
                       const float* scales, int64_t n, float* y, int64_t stride, const float* bias) {
    constexpr int at_once = 16;
    for (int64_t panel = first; panel < last; ++panel)
        for (int64_t row = 0; row < n; row += at_once)
            multiply_last_gathered<at_once>(w, panel, x + row * x_stride, x_stride, scales + row,
                                            n - row < at_once ? n - row : at_once, y + row * stride, stride, bias);
}
static_assert(kCodeOffset == 128);
#else
constexpr void (*multiply_gathered)(const Gathered&, int64_t, int64_t, const uint8_t*, int64_t, const float*, int64_t,
                                    float*, int64_t, const float*) = nullptr;
#endif

constexpr DenseKernels kDense = {expands, compress_items, convert, multiply_dense, multiply_gathered};

}  // namespace
}  // namespace sparse
