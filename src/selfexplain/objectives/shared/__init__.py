"""What the objectives share: their interface, memories that checkpoints hold, losses, teachers, stages."""
