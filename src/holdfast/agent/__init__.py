"""What an agent's process imports: nothing here holds a credential or reaches the outside."""
