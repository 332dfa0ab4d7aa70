"""The words of generated figures in Chinese, for docs/zh: titles, headings, cells and verdicts.

A sentence that a claim's judge writes from its rows, and whatever has no entry here, stays English.
"""

from __future__ import annotations

import re

WORDS = {
    "network": "网络",
    "batch": "批量",
    "operator": "算子",
    "shapes": "形状数",
    "least": "最小",
    "most": "最大",
    "ratio": "比值",
    "fastcnn, not optimised": "fastcnn，未优化",
    "best other / fastcnn": "其他最快者 / fastcnn",
    "PyTorch / fastcnn, geometric mean": "PyTorch / fastcnn，几何平均",
    "of the roofline, median": "占 roofline，中位数",
    "on our kernels": "由我们的内核运行",
    "time without prepack / with": "不预打包 / 预打包的时间",
    # Claims: verdicts and titles.
    "claim": "论断",
    "verdict": "判定",
    "of its parts hold": "成立的部分",
    "holds": "成立",
    "holds in part": "部分成立",
    "does not hold here": "在此不成立",
    "Two stacked 3x3 convolutions replace a 5x5": "两个叠加的 3x3 卷积代替一个 5x5",
    "1x1 reductions before 3x3 and 5x5 save computation": "3x3 和 5x5 之前的 1x1 降维节省计算",
    "Inception networks are 2 to 3 times faster than equally good ones": "Inception 网络比同样好的网络快 2 到 3 倍",
    "Local response normalisation costs time and memory": "局部响应归一化耗费时间和内存",
    "ReLU trains several times faster than tanh and sigmoid": "ReLU 的训练比 tanh 和 sigmoid 快几倍",
    "ResNet-152 needs fewer operations than VGG, and depth does not degrade residual networks": (
        "ResNet-152 的运算量少于 VGG，深度不会使残差网络退化"
    ),
    "AlexNet's split over two devices pays": "AlexNet 拆分到两个设备是划算的",
    "RBF output units reject what is no character": "RBF 输出单元会拒绝不是字符的输入",
    # Their tables: titles, headings, cells.
    "A 5x5 convolution and two 3x3, C channels in and out, each with bias and ReLU": (
        "一个 5x5 卷积与两个 3x3，输入输出均为 C 个通道，各带偏置和 ReLU"
    ),
    "GoogLeNet's blocks with and without the reductions, batch 1": "GoogLeNet 的模块，有降维与没有降维，批量 1",
    "GoogLeNet and networks about as accurate, 224x224": "GoogLeNet 与准确率相近的网络，224x224",
    "Networks with their normalisation and without, batch 4": "有归一化与没有归一化的网络，批量 4",
    "The layer alone, batch 4": "单独这一层，批量 4",
    "Epochs until the training error is reached: LeNet-5 (max-pooling, linear output) on digits": (
        "达到该训练错误率所需的轮数：数字上的 LeNet-5（最大池化，线性输出）"
    ),
    "Operations and time, 224x224, batch 1": "运算量与时间，224x224，批量 1",
    "Training on digits: CIFAR-form networks": "在数字上训练：CIFAR 形式的网络",
    "AlexNet (paper) in one process and in two": "AlexNet（论文）在一个进程和两个进程中",
    "What a process holds and receives": "一个进程持有和接收的内容",
    "LeNet-5 (paper) with either output: held-out digits read right, and rejection of what is no digit (AUROC)": (
        "LeNet-5（论文）用两种输出：留出的数字读对的比例，以及对非数字的拒绝（AUROC）"
    ),
    "The output layer alone, 84 to 10": "单独的输出层，84 到 10",
    "C": "C",
    "picture": "图像",
    "block": "模块",
    "layer": "层",
    "engine": "引擎",
    "activation": "激活函数",
    "learning rate": "学习率",
    "seeds": "随机种子数",
    "epochs": "轮数",
    "depth": "深度",
    "pass": "过程",
    "process": "进程",
    "output": "输出",
    "confidence": "置信度",
    "photographs": "照片",
    "noise": "噪声",
    "shuffled digits": "打乱的数字",
    "parameters, M": "参数，M",
    "share of the parameters": "参数占比",
    "received a picture, KiB": "每张图片接收，KiB",
    "kept for training with, MiB a picture": "有归一化时为训练保留，每张 MiB",
    "two processes of 1 thread, ms": "两个进程各 1 线程，ms",
    "one process of 2, ms": "一个进程 2 线程，ms",
    "optimized, ms": "优化后，ms",
    "two / one": "两个 / 一个",
    "two / best one": "两个 / 一个的最好方式",
    "forward": "前向",
    "forward and backward": "前向和反向",
    "one of one": "唯一的一个",
    "0 of two": "两个中的 0 号",
    "1 of two": "两个中的 1 号",
    "smallest distance": "最小距离",
    "largest logit": "最大 logit",
    "largest softmax probability": "最大 softmax 概率",
    "linear": "线性",
}
# What a heading or a cell of several parts is made of: "fastcnn, ratio", "training error, least".
PARTS = {
    "least": "最小",
    "most": "最大",
    "median": "中位数",
    "ratio": "比值",
    "operations": "运算量",
    "weights": "权重",
    "time": "时间",
    "memory": "内存",
    "memory in outputs": "内存（输出的倍数）",
    "with": "有",
    "without": "无",
    "accuracy": "准确率",
    "training error": "训练错误率",
    "training loss": "训练损失",
    "photographs": "照片",
    "noise": "噪声",
    "shuffled digits": "打乱的数字",
    "x GoogLeNet": "为 GoogLeNet 的倍数",
    "paper": "论文",
}


def _word(text: str) -> str:
    """A heading or cell: as a whole, or each part between commas."""
    parts = text.split(", ")
    return WORDS.get(text) or "，".join([parts[0] if len(parts) == 1 else _part(parts[0]), *map(_part, parts[1:])])


def _part(text: str) -> str:
    for ending, chinese in ((" with", " 有"), (" without", " 无"), (" two 3x3", " 两个 3x3"), (" linear", " 线性")):
        if text.endswith(ending):
            return text.removesuffix(ending) + chinese
    return re.sub(r"^to (\d+%)$", r"到 \1", PARTS.get(text, text))


def translated(figure: str) -> str:
    """A generated figure (see docs.py) with its words in Chinese; its numbers are the same."""
    return "\n".join(map(_line, figure.split("\n")))


def _line(line: str) -> str:
    if line.startswith("| "):
        cells = [re.sub(r"^(\d+) of (\d+)$", r"\2 中的 \1", _word(cell.strip())) for cell in line[1:-1].split("|")]
        return f"| {' | '.join(cells)} |".replace("|  |", "| |")
    if found := re.fullmatch(r"\*\*(.+)\.\*\*", line):
        return f"**{_word(found[1].lower())}。**"
    if line.endswith(":"):
        return f"{_word(line[:-1])}："
    return re.sub(r"^- (yes|no): ", lambda found: {"yes": "- 是：", "no": "- 否："}[found[1]], line)
