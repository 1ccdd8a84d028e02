"""The pages of the project."""

from django.urls import path
from shop import views

urlpatterns = [
    path("orders/<int:number>/", views.place_order),
    path("orders/<int:number>/complete/", views.complete_order),
    path("orders/<int:number>/delete/", views.delete_order),
]
