"""What objectives share: their interface, memories in checkpoints, losses, teachers, stages."""
