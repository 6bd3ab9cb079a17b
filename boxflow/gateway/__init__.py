"""How does an agent in a box use a model without the key ever entering the box, and without spending too much?

The gateway is one small HTTP server of the engine, on loopback, that stands for the model's host. An agent is given its
address and the token of its run; the gateway forwards what it asks, with the key instead of the token, reads from the
answers what was spent, and refuses once the limits are reached. It forwards what it can meter, and no other request.

::

    async with ModelGateway(ledger, port=8390) as gateway:
        token = new_token()
        await gateway.open(Account(token=token, name="port-go", api=ModelApi.ANTHROPIC,
                                   upstream="https://api.anthropic.com", key="$ANTHROPIC_API_KEY",
                                   max_cost_usd=5.0, prices=Prices(input=3.0, cached_input=0.3, output=15.0)))
        ...                                  # the program gets gateway.url(token) as its base URL, any text as its key
        spent = await gateway.spent(token)
        await gateway.close(token)
"""

from boxflow.gateway.accounts import Account, AccountNotFoundError, new_token
from boxflow.gateway.gateway import ModelGateway
from boxflow.gateway.ledger import Ledger, MemoryLedger
from boxflow.gateway.limits import Limits
from boxflow.gateway.spending import Prices, Spent

__all__ = [
    "Account",
    "AccountNotFoundError",
    "Ledger",
    "Limits",
    "MemoryLedger",
    "ModelGateway",
    "Prices",
    "Spent",
    "new_token",
]
