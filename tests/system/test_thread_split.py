"""Work in threads: each uses one of torch's threads, whatever number the caller uses."""

import threading

import torch

from alexnet.system.thread_split import parallel_for


def test_each_thread_uses_one_of_torch() -> None:
    torch.set_num_threads(3)
    found: list[tuple[str, int, int]] = []

    def work(first: int, last: int) -> None:
        x = torch.ones(40, 40, requires_grad=True)
        x.register_hook(lambda _: found.append((threading.current_thread().name, first, torch.get_num_threads())))
        (x @ x).relu().sum().backward()

    for _ in range(2):
        parallel_for(3, work)
    assert sorted(number for _, number, _ in found) == [0, 0, 1, 1, 2, 2]
    assert all(name.startswith("alexnet-kernels") and threads == 1 for name, _, threads in found)
    assert torch.get_num_threads() == 3
