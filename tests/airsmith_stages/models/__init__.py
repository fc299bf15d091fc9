"""What becomes of a trained adapter: merged, evaluated, registered, and proved where it is served."""
