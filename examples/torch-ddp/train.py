"""Trains a small network on scikit-learn's bundled handwritten digits over several nodes, with PyTorch's DDP on gloo.

Each node takes its share of every batch; the gradients are averaged, so all nodes hold the same weights at every step.
Rank 0 writes a checkpoint after each epoch; an attempt that finds one goes on where it ends. Without FetchML it runs as
a single node, or under torchrun. Nothing is downloaded.
"""

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BATCH = 96


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training data (default 10)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default 0.002)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the weights and the order (default 7)")
    args = parser.parse_args()
    for name in ("epochs", "lr"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be greater than 0")
    return args


def restore(path, model, optimizer):
    """Returns the last epoch that is in the checkpoint of rank 0, after every rank has taken it over."""
    state = [torch.load(path) if dist.get_rank() == 0 and path.exists() else None]
    dist.broadcast_object_list(state)
    if state[0] is None:
        return 0
    model.load_state_dict(state[0]["model"])
    optimizer.load_state_dict(state[0]["optimizer"])
    return state[0]["epoch"]


def save(state, path):
    """Written beside and renamed into place: whoever reads it sees all of it or none."""
    beside = path.with_suffix(".new")
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def train_epoch(model, optimizer, images, labels, epoch, seed):
    """One pass over this rank's share, in an order known from seed and epoch alone. Returns the mean loss."""
    rank, world = dist.get_rank(), dist.get_world_size()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    order = order[: len(order) // world * world]
    total, count = 0.0, 0
    for batch in order.split(BATCH // world * world):
        share = batch[rank::world]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[share]), labels[share])
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(share), count + len(share)
    return total / count


def main():
    args = parse_args()
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    if BATCH < world:
        raise SystemExit(f"at most {BATCH} nodes: each needs a part of every batch")
    torch.manual_seed(args.seed)
    output = Path(os.environ.get("FETCHML_OUTPUT_DIR", "output"))
    checkpoint = Path(os.environ.get("FETCHML_CHECKPOINT_DIR", "checkpoint")) / "last.pt"
    for directory in (output, checkpoint.parent):
        directory.mkdir(parents=True, exist_ok=True)

    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=args.lr)
    done = restore(checkpoint, network, optimizer)
    if done:
        print(f"rank {rank} of {world}: resumed after epoch {done}", flush=True)
    model = DistributedDataParallel(network)

    for epoch in range(done + 1, args.epochs + 1):
        loss = train_epoch(model, optimizer, images, labels, epoch, args.seed)
        if rank == 0:
            save({"epoch": epoch, "model": network.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
            print(f"epoch {epoch:3d}/{args.epochs}  loss {loss:.4f}", flush=True)

    mine = torch.tensor([sum(parameter.double().sum() for parameter in network.parameters())])
    all_sums = [torch.zeros_like(mine) for _ in range(world)]
    dist.all_gather(all_sums, mine)
    weights = [one.item() for one in all_sums]
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).float().mean().item()
    print(f"rank {rank} of {world}: weights {weights[rank]:.12f}", flush=True)
    if rank == 0:
        torch.save(network.state_dict(), output / "model.pt")
        summary = {"accuracy": accuracy, "first_epoch": done + 1, "nodes": world, "weights": weights}
        (output / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    dist.destroy_process_group()
    if any(one != weights[0] for one in weights):
        raise SystemExit(f"the ranks disagree: {weights}")


if __name__ == "__main__":
    main()
