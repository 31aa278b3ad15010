"""From a mask to vertebra lines and curve angles."""
