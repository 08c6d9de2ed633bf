"""What the objectives share: interface, memory that checkpoints hold, losses, teachers, stages."""
