"""What a column's process needs in its environment from the start."""

from workers.mesh import Mesh

# glibc gives blocks of more than 32 MB back to the system after each use, and a page fault for every 4 kB of the next one costs
# a CPU run up to half of its time. So: no block from mmap, nothing given back, one arena, and huge pages where allowed.
COLUMN_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # The last collectives of each process group, for the diagnosis of a hang.
    "TORCH_FR_BUFFER_SIZE": "256",
}

# A process that asks Ray for no GPU sees them all; this keeps those that need none off them.
NO_GPUS = {"CUDA_VISIBLE_DEVICES": ""}


def column_environment(mesh: Mesh, rank: int) -> dict[str, str]:
    if mesh.processes_per_gpu == 1 or mesh.gpu_backend != "nccl":
        return COLUMN_ENVIRONMENT
    # NCCL refuses ranks that share a GPU, unless it takes them for different hosts; it goes over sockets then.
    return {**COLUMN_ENVIRONMENT, "NCCL_HOSTID": f"rank {rank}"}
