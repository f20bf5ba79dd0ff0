"""Dash, on the Flask application of flask_app.py; its prefix is in DASH_REQUESTS_PATHNAME_PREFIX."""
import dash

from flask_app import application

dashboard = dash.Dash(__name__, server=application, routes_pathname_prefix="/")
dashboard.layout = dash.html.Div([dash.dcc.Input(id="in", value="x"), dash.html.Div(id="out")])


@dashboard.callback(dash.Output("out", "children"), dash.Input("in", "value"))
def update(value):
    return f"called with {value}"
