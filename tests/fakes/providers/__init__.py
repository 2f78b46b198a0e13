"""Scripted providers over real sockets: as strict as the real ones, and one mind (`brain`) behind them all."""
