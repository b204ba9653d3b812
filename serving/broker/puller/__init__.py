"""The replica's side of a broker: how many items it asks for, and how it runs and reports them."""
