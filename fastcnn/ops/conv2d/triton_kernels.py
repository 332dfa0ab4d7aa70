"""Implicit-GEMM convolution in Triton.

A program computes BLOCK_M output pixels x BLOCK_N output channels. The GEMM's inner dimension runs over the
filter's taps (r, s) and blocks of input channels; nothing is unfolded in memory. Weights are packed as rows
(k; r, s, c), so that both operands are contiguous along the inner dimension, which wgmma needs for TF32.
"""

from __future__ import annotations

from fastcnn.backends.triton.common import activate, dot, jit, tl


@jit
def epilogue(
    acc, bias_ptr, residual_row, y_row, k0, K, row_mask,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """y = act(acc + bias + residual), at rows of pointers and channels k0, k0 + 1, ...

    A large tile goes out in halves: a residual or output tile beside the whole accumulator spills registers.
    """
    BLOCK_M: tl.constexpr = acc.shape[0]
    BLOCK_N: tl.constexpr = acc.shape[1]
    if BLOCK_M * BLOCK_N >= 128 * 128:
        left, right = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
        store_tile(left, bias_ptr, residual_row, y_row, k0, K, row_mask, ACTIVATION, HAS_BIAS, HAS_RESIDUAL)
        k0 += BLOCK_N // 2
        store_tile(right, bias_ptr, residual_row, y_row, k0, K, row_mask, ACTIVATION, HAS_BIAS, HAS_RESIDUAL)
    else:
        store_tile(acc, bias_ptr, residual_row, y_row, k0, K, row_mask, ACTIVATION, HAS_BIAS, HAS_RESIDUAL)


@jit
def store_tile(
    acc, bias_ptr, residual_row, y_row, k0, K, row_mask,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    k = k0 + tl.arange(0, acc.shape[1])
    mask = row_mask[:, None] & (k < K)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual_row + k[None, :], mask=mask, other=0.0).to(tl.float32)
    acc = activate(acc, ACTIVATION)
    tl.store(y_row + k[None, :], acc.to(y_row.dtype.element_ty), mask=mask)


@jit
def load_taps(
    x_row, w_row, h0, w0, row_mask, k_mask, r, s, c, H, W, C, x_stride, w_tap,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, WIDE_TAPS: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """Operands a (pixels, c) and b (c, k) of one tap and one block of channels; zero outside the image."""
    h = h0 + r * DILATION_H
    w = w0 + s * DILATION_W
    a_mask = row_mask
    if BOUNDED:
        a_mask &= (h >= 0) & (h < H)
    if WIDE_TAPS:  # c runs over a whole row (s, c) of the filter: the bound is on w + c
        column = w[:, None] + c[None, :]
        a_mask = a_mask[:, None] & (column >= 0) & (column < W) & (c < C)[None, :]
    else:
        if BOUNDED:
            a_mask &= (w >= 0) & (w < W)
        a_mask = a_mask[:, None] & (c < C)[None, :]
    shift = (r * DILATION_H * W + s * DILATION_W) * x_stride
    a = tl.load(x_row[:, None] + (shift + c)[None, :], mask=a_mask, other=0.0)
    b = tl.load(w_row[None, :] + (w_tap + c)[:, None], mask=k_mask[None, :] & (c < C)[:, None], other=0.0)
    return a, b


@jit
def conv2d_kernel(
    x_ptr, w_ptr, bias_ptr, residual_ptr, y_ptr,
    M, H, W, C, K, P, Q, x_stride, y_stride, residual_stride, w_tap_stride, steps,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, SPLITS: tl.constexpr,
    WIDE_TAPS: tl.constexpr, BOUNDED: tl.constexpr, NESTED: tl.constexpr, PRECISION: tl.constexpr,
    INT64: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, groups, SPLITS); C and K are those of one group, `steps` the inner steps of one split.

    With SPLITS > 1 y_ptr is a float32 workspace (SPLITS, M, groups * K), for reduce_splits_kernel.
    """
    # Neighbouring programs share their pixels, the larger operand, through L2.
    tiles_k = tl.cdiv(K, BLOCK_N)
    pid = tl.program_id(0)
    m = pid // tiles_k * BLOCK_M + tl.arange(0, BLOCK_M)
    k0 = pid % tiles_k * BLOCK_N
    k = k0 + tl.arange(0, BLOCK_N)
    group = tl.program_id(1)
    split = tl.program_id(2)
    row_mask = m < M
    k_mask = k < K
    q = m % Q
    p = m // Q % P
    n = m // Q // P
    h0 = p * STRIDE_H - PAD_H
    w0 = q * STRIDE_W - PAD_W
    k_row = group * K + k
    if INT64:
        n = n.to(tl.int64)
        m = m.to(tl.int64)
        k_row = k_row.to(tl.int64)
    x_row = x_ptr + group * C + ((n * H + h0) * W + w0) * x_stride
    w_row = w_ptr + k_row * (R * S * w_tap_stride)
    lane = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if NESTED:
        for r in range(R):
            for s in range(S):
                for c0 in range(0, C, BLOCK_K):
                    a, b = load_taps(
                        x_row, w_row, h0, w0, row_mask, k_mask, r, s, c0 + lane, H, W, C, x_stride,
                        (r * S + s) * w_tap_stride, DILATION_H, DILATION_W, WIDE_TAPS, BOUNDED,
                    )  # fmt: skip
                    acc = dot(a, b, acc, PRECISION)
    else:
        # One loop over taps and channel blocks keeps the pipeline full from tap to tap.
        blocks_c = tl.cdiv(C, BLOCK_K)
        last = R * S * blocks_c
        first = 0
        if SPLITS > 1:
            first = split * steps
            last = tl.minimum(last, first + steps)
        for i in range(first, last):
            tap = i // blocks_c if R * S > 1 else 0
            a, b = load_taps(
                x_row, w_row, h0, w0, row_mask, k_mask, tap // S, tap % S, (i - tap * blocks_c) * BLOCK_K + lane,
                H, W, C, x_stride, tap * w_tap_stride, DILATION_H, DILATION_W, WIDE_TAPS, BOUNDED,
            )  # fmt: skip
            acc = dot(a, b, acc, PRECISION)
    if SPLITS > 1:
        mask = row_mask[:, None] & k_mask[None, :]
        width = tl.num_programs(1) * K
        slot = y_ptr + (split * M + m.to(tl.int64)) * width + group * K
        tl.store(slot[:, None] + k[None, :], acc, mask=mask)
    else:
        epilogue(
            acc, bias_ptr + group * K, (residual_ptr + group * K + m * residual_stride)[:, None],
            (y_ptr + group * K + m * y_stride)[:, None], k0, K, row_mask, ACTIVATION, HAS_BIAS, HAS_RESIDUAL,
        )  # fmt: skip


@jit
def conv2d_grouped_kernel(
    x_ptr, w_ptr, bias_ptr, residual_ptr, y_ptr, M, H, W, K, P, Q, x_stride, y_stride, residual_stride,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr,
    PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, GROUP_IN: tl.constexpr,
    GROUP_OUT: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Narrow groups, depthwise among them: each product of the sum, no others, where a tile of tensor cores has mostly
    zeros. Weights lie as rows (r, s, c; k); what taps read again comes from L1."""
    m = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k0 = tl.program_id(1) * BLOCK_C
    k = k0 + tl.arange(0, BLOCK_C)
    row_mask = m < M
    k_mask = k < K
    channel = k // GROUP_OUT * GROUP_IN
    h0 = m // Q % P * STRIDE_H - PAD_H
    w0 = m % Q * STRIDE_W - PAD_W
    n = m // Q // P
    if INT64:
        n = n.to(tl.int64)
        m = m.to(tl.int64)
    acc = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for r in range(R):
        for s in range(S):
            h = h0 + r * DILATION_H
            w = w0 + s * DILATION_W
            inside = row_mask & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            x_row = x_ptr + ((n * H + h) * W + w) * x_stride
            for j in tl.static_range(GROUP_IN):
                x = tl.load(x_row[:, None] + (channel + j)[None, :], mask=inside[:, None] & k_mask[None, :], other=0.0)
                b = tl.load(w_ptr + ((r * S + s) * GROUP_IN + j) * K + k, mask=k_mask, other=0.0)
                acc += x.to(tl.float32) * b.to(tl.float32)[None, :]
    epilogue(
        acc, bias_ptr, (residual_ptr + m * residual_stride)[:, None], (y_ptr + m * y_stride)[:, None], k0, K, row_mask,
        ACTIVATION, HAS_BIAS, HAS_RESIDUAL,
    )  # fmt: skip


@jit
def reduce_splits_kernel(
    partial_ptr, bias_ptr, residual_ptr, y_ptr, M, K, y_stride, residual_stride,
    SPLITS: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Adds the splits in their order, so that results do not change from run to run, then the epilogue."""
    m = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k0 = tl.program_id(1) * BLOCK_C
    k = k0 + tl.arange(0, BLOCK_C)
    row_mask = m < M
    mask = row_mask[:, None] & (k < K)[None, :]
    if INT64:
        m = m.to(tl.int64)
    acc = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for split in tl.static_range(SPLITS):
        row = (split * M + m.to(tl.int64)) * K
        acc += tl.load(partial_ptr + row[:, None] + k[None, :], mask=mask, other=0.0)
    epilogue(
        acc, bias_ptr, (residual_ptr + m * residual_stride)[:, None], (y_ptr + m * y_stride)[:, None], k0, K, row_mask,
        ACTIVATION, HAS_BIAS, HAS_RESIDUAL,
    )  # fmt: skip


@jit
def conv2d_descriptor_kernel(
    x_desc, w_desc, bias_ptr, residual_ptr, y_ptr,
    N, C, K, P, Q, y_stride, residual_stride, tiles,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, X_STRIDE: tl.constexpr,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, PERSISTENT: tl.constexpr,
    PRECISION: tl.constexpr, INT64: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Boxes of the image instead of rows of pointers: a tap is the same box, shifted; outside is zero.

    STRIDE 2 reads the image as (N, H/2, 2, W/2, 2 * X_STRIDE): rows and columns of one parity are a box there.
    """
    if PERSISTENT:
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            descriptor_tile(
                tile, x_desc, w_desc, bias_ptr, residual_ptr, y_ptr, N, C, K, P, Q, y_stride, residual_stride,
                R, S, STRIDE, PAD_H, PAD_W, DILATION_H, DILATION_W, X_STRIDE, ACTIVATION, HAS_BIAS, HAS_RESIDUAL,
                PRECISION, INT64, TILE_N, TILE_P, TILE_Q, BLOCK_N, BLOCK_K,
            )  # fmt: skip
    else:
        descriptor_tile(
            tl.program_id(0), x_desc, w_desc, bias_ptr, residual_ptr, y_ptr, N, C, K, P, Q, y_stride,
            residual_stride, R, S, STRIDE, PAD_H, PAD_W, DILATION_H, DILATION_W, X_STRIDE, ACTIVATION, HAS_BIAS,
            HAS_RESIDUAL, PRECISION, INT64, TILE_N, TILE_P, TILE_Q, BLOCK_N, BLOCK_K,
        )  # fmt: skip


@jit
def descriptor_tile(
    tile, x_desc, w_desc, bias_ptr, residual_ptr, y_ptr, N, C, K, P, Q, y_stride, residual_stride,
    R: tl.constexpr, S: tl.constexpr, STRIDE: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, X_STRIDE: tl.constexpr,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr, INT64: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BLOCK_M: tl.constexpr = TILE_N * TILE_P * TILE_Q
    tiles_k = tl.cdiv(K, BLOCK_N)
    tiles_q = tl.cdiv(Q, TILE_Q)
    tiles_p = tl.cdiv(P, TILE_P)
    k0 = tile % tiles_k * BLOCK_N
    tile = tile // tiles_k
    q0 = tile % tiles_q * TILE_Q
    p0 = tile // tiles_q % tiles_p * TILE_P
    n0 = tile // tiles_q // tiles_p * TILE_N
    blocks_c = tl.cdiv(C, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in range(R * S * blocks_c):
        tap = i // blocks_c if R * S > 1 else 0
        c = (i - tap * blocks_c) * BLOCK_K
        h = tap // S * DILATION_H - PAD_H
        w = tap % S * DILATION_W - PAD_W
        if STRIDE == 1:
            a = x_desc.load([n0, p0 + h, q0 + w, c])
        else:  # an arithmetic shift and a mask: C's / and % round towards zero, and h can be negative
            a = x_desc.load([n0, p0 + (h >> 1), h & 1, q0 + (w >> 1), (w & 1) * X_STRIDE + c])
        b = w_desc.load([k0, tap, c])
        acc = dot(a.reshape(BLOCK_M, BLOCK_K), b.reshape(BLOCK_N, BLOCK_K).T, acc, PRECISION)
    row = tl.arange(0, BLOCK_M)
    q = q0 + row % TILE_Q
    p = p0 + row // TILE_Q % TILE_P
    n = n0 + row // (TILE_Q * TILE_P)
    row_mask = (n < N) & (p < P) & (q < Q)
    m = (n * P + p) * Q + q
    if INT64:
        m = m.to(tl.int64)
    epilogue(
        acc, bias_ptr, (residual_ptr + m * residual_stride)[:, None], (y_ptr + m * y_stride)[:, None], k0, K, row_mask,
        ACTIVATION, HAS_BIAS, HAS_RESIDUAL,
    )  # fmt: skip
