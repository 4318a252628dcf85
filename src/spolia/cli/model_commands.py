"""models list, show, verify."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spolia.cli.options import JsonOption

app = typer.Typer(help="Look at model files.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name or file.", show_default=False)]


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models inside the package."""
    from spolia.cli.output import table
    from spolia.encoders import open_model, shipped_models

    cards = {name: open_model(name).card for name in shipped_models()}
    if as_json:
        for name, card in cards.items():
            typer.echo(
                json.dumps({"name": name, "id": card.id, "kind": card.kind, "dim": card.dim})
            )
        return
    rows = [
        (n, c.id, f"{c.n_parameters / 1e6:.2f} M", f"{c.dim}", f"{c.sample_rate} Hz")
        for n, c in cards.items()
    ]
    table(("name", "id", "parameters", "dim", "audio"), rows)


@app.command("show")
def show_model(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a model's card: architecture, training data with licences, results, calibration."""
    from spolia.encoders import open_model
    from spolia.model_card import render

    card = open_model(name).card
    typer.echo(card.to_json() if as_json else render(card))


@app.command("verify")
def verify_model(name: NameArgument, as_json: JsonOption = False) -> None:
    """Check that a model makes the fingerprints here that it made where it was exported."""
    from spolia.encoders import open_model

    model = open_model(name)
    deviation = model.verify()
    if as_json:
        typer.echo(json.dumps({"id": model.card.id, "deviation": deviation}))
    else:
        typer.echo(f"{model.card.id}: the self-check vector agrees within {deviation:.1g}")
