"""What every `Drawn` must do on a GPU."""

import torch

from whatwhere.tasks import Drawn


def a_graph_draws_what_the_cpu_draws(data: Drawn) -> None:
    """Batches of two seeds, sampled inside a captured graph, are those of the CPU."""
    seeds = torch.tensor([0, 1], device="cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(2):
        data.batch(seeds, step, 64)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        inputs, targets = data.batch(seeds, step, 64)
    for number in (5, 99_999):
        step.fill_(number)
        graph.replay()
        for seed in (0, 1):
            drawn, aims = data.batch(seed, number, 64)
            assert torch.equal(inputs[seed].cpu(), drawn)
            assert torch.equal(targets[seed].cpu(), aims)
