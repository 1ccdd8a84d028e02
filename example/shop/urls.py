"""URLs of the pages and of the JSON endpoint."""

from django.urls import path

from . import api, views

app_name = "shop"
urlpatterns = [
    path("", views.products, name="products"),
    path("products/<int:product_id>/order/", views.place, name="place"),
    path("orders/<int:order_id>/", views.order, name="order"),
    path("orders/<int:order_id>/events/", views.events, name="events"),
    path("orders/<int:order_id>/advance/", views.advance, name="advance"),
    path("api/orders/", api.orders, name="api-orders"),
    path("api/orders/<int:order_id>/", api.order, name="api-order"),
]
